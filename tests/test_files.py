"""files.py: whole or not there; digests depend on content and on nothing else."""

from __future__ import annotations

import errno
import json
import os
import warnings

import filelock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from breakhis_cls import files


def test_replaced_is_whole_on_success_and_keeps_the_suffix(tmp_path):
    path = tmp_path / "deep" / "model.keras"
    with files.atomic_path(path) as temporary:
        assert temporary.suffix == ".keras" and temporary.parent == path.parent
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_replaced_leaves_the_old_file_on_any_error(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_links_or_sync_still_keeps_a_second_process_out(tmp_path, monkeypatch, number):
    fcntl = pytest.importorskip("fcntl")  # not on Windows

    def missing(*_, **__):
        raise OSError(number, os.strerror(number))

    for module, name in ((fcntl, "flock"), (os, "link"), (os, "fsync")):
        monkeypatch.setattr(module, name, missing)
    for _ in range(2):  # what an ordinary lock leaves behind, or a killed process, is not held
        (tmp_path / "lock").touch()
        with pytest.warns(UserWarning, match="has no locks"), files.lock(tmp_path / "lock", 0):
            with pytest.raises(filelock.Timeout), pytest.warns(UserWarning, match="has no locks"):
                files.lock(tmp_path / "lock", 0)
            files.write_text(tmp_path / "written", "text")
    assert (tmp_path / "written").read_text() == "text"


def test_a_disk_without_locks_is_one_warning(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def missing(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", missing)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        files.lock(tmp_path / "runs" / "lock", 0).lock.release()
        files.lock(tmp_path / "cache" / "lock", 0).lock.release()  # of another folder, from another line
    assert len(shown) == 1 and "this disk has no locks" in str(shown[0].message)


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        files.lock(tmp_path / "file" / "lock", 0)


def test_text_and_json_read_back(tmp_path):
    files.write_text(tmp_path / "a.txt", "µ \u2264 5\n")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "µ \u2264 5\n"
    files.write_json(tmp_path / "a.json", {"auc": 0.5})
    assert json.loads((tmp_path / "a.json").read_text()) == {"auc": 0.5}


def test_nan_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "metrics.json", {"auc": float("nan")})
    assert list(tmp_path.iterdir()) == []


@given(st.dictionaries(st.text(max_size=5), st.integers(), max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(settings):
    backwards = dict(reversed(settings.items()))
    assert files.sha256_of_values("store", 1, settings) == files.sha256_of_values("store", 1, backwards)


def test_a_digest_depends_on_every_part_and_its_place():
    digests = {files.sha256_of_values(*parts) for parts in [(), (1,), ("1",), (1, 2), (2, 1), ([1, 2],), ({"a": 1},)]}
    assert len(digests) == 7
