"""The download command, through Kaggle's real client, against a Kaggle of our own on the loopback."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SLIDES

from breakhis_cls import download, names
from breakhis_cls.data import archive, completeness, kaggle_download

TINY = {(slide, m): 2 if m == 200 else 1 for slide in SLIDES for m in names.MAGNIFICATIONS}
CUT = (5 << 19) + 17  # 2.5 MiB: the client keeps whole chunks of 1 MiB
KEPT = 2 << 20


class Kaggle(BaseHTTPRequestHandler):
    """What the client asks of Kaggle: who am I, where is the archive, and the archive, maybe in pieces."""

    archive = b""
    cut_at: int | None = None  # the connection breaks here
    cuts_left = 0
    status = 200  # of the answer to DownloadDataset
    known = True  # whether the token is somebody's
    has_etag = True
    modified = "Mon, 02 Jan 2017 03:04:05 GMT"
    seen: list[str]  # requests, and for the archive the range asked for
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.seen.append(self.path.rpartition("/")[2])
        if self.path.endswith("IntrospectToken"):
            known, unknown = b'{"active": true, "username": "me"}', b'{"active": false}'
            return self.answer(200, known if self.known else unknown)
        if self.status != 200:
            return self.answer(self.status, b'{"code": %d, "message": "no"}' % self.status)
        self.answer(302, b"", {"Location": "/blob/archive.zip?signature=x"})

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "bytes=0-")
        self.seen.append(asked)
        identity = {"Last-Modified": self.modified, "Accept-Ranges": "bytes"}
        if self.has_etag:
            identity["ETag"] = f'"{hashlib.md5(self.archive).hexdigest()}"'
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start and self.headers["If-Range"] not in identity.values():
            start = 0
        end = len(self.archive)
        if self.cut_at is not None and self.cuts_left:
            type(self).cuts_left -= 1
            end = max(start, self.cut_at)
        self.answer(206 if start else 200, self.archive[start:end], identity, len(self.archive) - start)

    def answer(self, status: int, body: bytes, headers: Any = None, length: int | None = None) -> None:
        self.send_response(status)
        kind = "application/octet-stream" if headers else "application/json"
        about = {"Content-Type": kind, **(headers or {})}
        for name, value in about.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client hangs up once it has seen the offer
            self.wfile.write(body)
        self.close_connection = length is not None

    def log_message(self, format: str, *args: Any) -> None:
        """Be silent."""


@pytest.fixture
def kaggle(tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Kaggle]]:
    """A server on a free port, which the client takes for Kaggle; nobody's home, no proxy, and no waiting."""
    from kagglesdk import kaggle_env

    state = type("State", (Kaggle,), {"archive": packed(tiny_tree), "seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), state)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in [name for name in os.environ if name.startswith(("KAGGLE_", "XDG_"))]:
        monkeypatch.delenv(name)
    for name, value in {"HOME": str(tmp_path / "home"), "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
                        "KAGGLE_API_TOKEN": "token", "NO_PROXY": "*", "no_proxy": "*"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for module in [module for module in sys.modules if module.partition(".")[0] == "kaggle"]:
        monkeypatch.delitem(sys.modules, module)  # it looks for its folder on import
    monkeypatch.setitem(
        kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, f"http://127.0.0.1:{server.server_port}"
    )
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(os, "sync", lambda: None)
    monkeypatch.setattr(completeness, "count_official_images", lambda: TINY)
    monkeypatch.setattr(kaggle_download, "ARCHIVE_BYTES", len(state.archive))
    monkeypatch.chdir(tmp_path)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def packed(tree: Path, folds: bytes = b"mag,grp\n") -> bytes:
    """Kaggle's zip of a tree: the top folder doubled, and 3 MB that do not compress."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr("Folds.csv", folds)
        opened.writestr("ballast.bin", os.urandom(3 << 20))
        for path in sorted(tree.rglob("*.png")):
            opened.write(path, f"BreaKHis_v1/{path.relative_to(tree).as_posix()}")
    return packed.getvalue()


ZIP, TREE = Path("data/cache/archive/breakhis.zip"), Path("data/breakhis/BreaKHis_v1")


def blobs(kaggle: type[Kaggle]) -> list[str]:
    return [request for request in kaggle.seen if request.startswith("bytes=")]


def pngs(tree: Path) -> dict[str, bytes]:
    return {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*.png")}


def assert_whole(kaggle: type[Kaggle], tiny_tree: Path) -> None:
    assert ZIP.read_bytes() == kaggle.archive
    assert pngs(TREE) == pngs(tiny_tree / "BreaKHis_v1")
    with zipfile.ZipFile(io.BytesIO(kaggle.archive)) as opened:
        assert (TREE / "Folds.csv").read_bytes() == opened.read("Folds.csv")
    assert sorted(path.name for path in TREE.parent.iterdir()) == [".BreaKHis_v1.lock", "BreaKHis_v1"]


def test_from_nothing_to_a_whole_tree_and_then_nothing_to_do(kaggle, tiny_tree, capsys) -> None:
    assert download.main([]) == 0
    assert_whole(kaggle, tiny_tree)
    message = capsys.readouterr()
    assert "75 of 75 images: it is complete" in message.out
    size = archive.format_bytes(len(kaggle.archive))
    assert f"The archive is kept: {ZIP}, {size}. To remove it: rm -r {ZIP.parent}" in message.out
    assert message.out.startswith("licence of the images: CC BY 4.0 according to https://kaiko-ai")
    assert "token" not in message.out and "unpacking and verifying" in message.err
    kaggle.seen.clear()
    assert download.main([]) == 0
    assert "it is complete" in capsys.readouterr().out and kaggle.seen == []
    assert download.main(["--verify"]) == 0


def test_a_short_interruption_is_resumed_at_once(kaggle, tiny_tree) -> None:
    kaggle.cut_at, kaggle.cuts_left = CUT, 1
    assert download.main([]) == 0
    assert blobs(kaggle) == ["bytes=0-", f"bytes={KEPT}-"]
    assert_whole(kaggle, tiny_tree)


@pytest.mark.parametrize("has_etag", [True, False])
def test_a_broken_connection_is_resumed_by_the_next_command(kaggle, tiny_tree, capsys, has_etag) -> None:
    kaggle.cut_at, kaggle.cuts_left, kaggle.has_etag = CUT, 99, has_etag
    assert download.main([]) == 2
    message = capsys.readouterr().err
    assert "stopped" in message and "the same command continues it" in message and "Traceback" not in message
    assert ZIP.stat().st_size == KEPT and not TREE.parent.exists()
    kaggle.cuts_left = 0
    kaggle.seen.clear()
    assert download.main([]) == 0
    assert blobs(kaggle) == ["bytes=0-", f"bytes={KEPT}-"]  # the first is the offer, which is not read
    assert_whole(kaggle, tiny_tree)


def test_an_interrupted_download_is_resumed(kaggle, tiny_tree, monkeypatch, capsys) -> None:
    def interrupted(_) -> None:
        raise KeyboardInterrupt

    kaggle.cut_at, kaggle.cuts_left = CUT, 1
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        assert download.main([]) == 130
    assert ZIP.stat().st_size == KEPT and "the same command continues" in capsys.readouterr().err
    assert download.main([]) == 0
    assert blobs(kaggle)[-1] == f"bytes={KEPT}-"
    assert_whole(kaggle, tiny_tree)


@pytest.mark.parametrize("change", ["longer", "as long"])
def test_an_archive_that_changed_in_between_is_fetched_afresh(kaggle, tiny_tree, change) -> None:
    kaggle.cut_at, kaggle.cuts_left = CUT, 99
    assert download.main([]) == 2
    assert ZIP.stat().st_size >= KEPT
    kaggle.cuts_left = 0
    kaggle.archive = packed(tiny_tree, b"mag,grp,fold\n" if change == "longer" else b"MAG,GRP\n")
    kaggle.seen.clear()
    assert download.main([]) == 0
    assert blobs(kaggle) == ["bytes=0-"]
    assert_whole(kaggle, tiny_tree)


def test_a_truncated_archive_is_removed_and_fetched_afresh(kaggle, tiny_tree, capsys) -> None:
    whole = kaggle.archive
    kaggle.archive = whole[: len(whole) // 2]
    assert download.main([]) == 2
    message = capsys.readouterr().err
    assert (
        "is damaged, or neither zip nor tar" in message
        and "It was removed; the same command downloads it again" in message
    )
    assert list(ZIP.parent.iterdir()) == [] and not TREE.exists()
    kaggle.archive = whole
    assert download.main([]) == 0
    assert_whole(kaggle, tiny_tree)


def test_a_whole_archive_is_not_asked_for_again(kaggle, tiny_tree) -> None:
    assert download.main([]) == 0
    shutil.rmtree(TREE)
    kaggle.seen.clear()
    assert download.main([]) == 0
    assert kaggle.seen == []
    assert_whole(kaggle, tiny_tree)


@pytest.mark.parametrize(("status", "expected"), [
    (401, "Kaggle does not accept the credentials (401). Looked for a token in"),
    (403, "accept its terms"),
    (404, "Kaggle has no ambarish/breakhis (404)"),
    (500, "Kaggle answers 500"),
])  # fmt: skip
def test_a_refusal_is_one_message(kaggle, capsys, status, expected) -> None:
    kaggle.status = status
    assert download.main([]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and expected in message and "Traceback" not in message
    assert not TREE.exists() and not ZIP.exists()


@pytest.mark.parametrize("token", [None, "unknown"])
def test_without_credentials_every_place_is_named(kaggle, capsys, monkeypatch, tmp_path, token) -> None:
    kaggle.known = False
    if token is None:
        monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert download.main([]) == 2
    message = capsys.readouterr()
    for place in ("KAGGLE_API_TOKEN (environment): " + ("there" if token else "not there"),
                  f"{tmp_path}/home/.kaggle/access_token: not there", "kaggle.json: not",
                  "KAGGLE_USERNAME and KAGGLE_KEY", "Generate New Token", "--from-zip"):  # fmt: skip
        assert place in message.err
    assert message.out == f"{kaggle_download.LICENCE}\n"  # and nothing of the client


def test_without_a_network_nothing_is_lost(kaggle, capsys, monkeypatch) -> None:
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, "http://127.0.0.1:9")
    assert download.main([]) == 2
    assert "stopped" in capsys.readouterr().err


def test_a_full_disk_is_reported_before_the_download(kaggle, capsys, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    assert download.main([]) == 2
    one, both = (archive.format_bytes(n * len(kaggle.archive)) for n in (1, 2))
    assert f"{both} are needed (archive {one} + tree {one})" in capsys.readouterr().err
    assert not ZIP.exists()


def test_an_archive_that_is_here_needs_no_kaggle(kaggle, tiny_tree, tmp_path, capsys) -> None:
    given = tmp_path / "given.zip"
    given.write_bytes(kaggle.archive)
    assert download.main(["--from-zip", str(given), "--data.root", "a"]) == 0
    assert pngs(Path("a")) == pngs(tiny_tree)
    assert kaggle.seen == [] and given.exists() and "is kept" not in capsys.readouterr().out
    given.write_bytes(kaggle.archive[:9999])
    assert download.main(["--from-zip", str(given), "--data.root", "c"]) == 2
    assert "get another copy" in capsys.readouterr().err and given.exists()


def test_an_incomplete_tree_is_unpacked_and_reported(kaggle, tiny_tree, tmp_path, capsys) -> None:
    part = tmp_path / "part"
    shutil.copytree(tiny_tree, part)
    next(part.rglob("SOB_B_A-14-22549AB-40-*.png")).unlink()
    expected = "74 of 75 images; missing: SOB_B_A_14-22549AB 40X: 0 of 1"
    zipped = shutil.make_archive(str(part), "zip", part)
    assert download.main(["--from-zip", zipped]) == 1
    assert expected in capsys.readouterr().out
    assert download.main(["--verify"]) == 1
    assert expected in capsys.readouterr().out
    assert download.main(["--from-zip", zipped]) == 2  # what is there is not ours to remove
    assert f"Move {TREE} away" in capsys.readouterr().err


@pytest.mark.parametrize(("argv", "expected"), [
    (["--verify", "--from-zip", "a"], "exclude each other"),
    (["--data.root", "synthetic"], "drawn and not downloaded"),
    (["--from-zip", "a"], "a does not exist"),
    (["--verify"], "no folder 'histology_slides' under data/breakhis"),
])  # fmt: skip
def test_contradictions_and_missing_files_are_refused(kaggle, capsys, argv, expected) -> None:
    assert download.main(argv) == 2
    assert expected in capsys.readouterr().err


def test_the_config_of_a_run_names_the_data_folder(kaggle, tiny_tree, capsys) -> None:
    Path("run.yaml").write_text(
        f"split: {{fold: 2}}\ndata: {{root: {tiny_tree}, magnifications: [200]}}\n", encoding="utf-8"
    )
    assert download.main(["--config", "run.yaml", "--verify"]) == 0
    Path("run.yaml").write_text("dta: {root: a}\n", encoding="utf-8")
    assert download.main(["--config", "run.yaml"]) == 2
    assert "unknown setting 'dta'" in capsys.readouterr().err


def test_the_script_and_the_module_are_one_command(tmp_path: Path) -> None:
    here = Path(__file__).parents[1]
    for command in (["-m", "breakhis_cls.download"], [str(here / "scripts" / "download.py")]):
        asked = subprocess.run(
            [sys.executable, *command, "--verify"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(here)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert asked.returncode == 2 and asked.stderr.startswith("error: no folder 'histology_slides'")
