"""A run's name, its lock, and what its folder says. No TensorFlow."""

import re

import pandas as pd
import pytest

from breakhis_cls import config
from breakhis_cls.data.dataset import Dataset
from breakhis_cls.errors import RunError
from breakhis_cls.modeling import run_folder, weights

SPLIT = pd.DataFrame({"file": ["a.png", "b.png"], "part": ["train", "test"]})


def _settings(tmp_path, **changes):
    return config.change_settings(config.Config(), {"run.dir": tmp_path / "runs", **changes})


def _name(settings=None, data="pixels", backbone="weights", split=SPLIT):
    return run_folder.run_name(settings or config.Config(), data, backbone, split)


def test_a_name_says_config_fold_and_seed():
    settings = config.change_settings(config.Config(), {"name": "mine", "split.fold": 2, "run.seed": 3})
    assert re.fullmatch(r"mine-2-3-[0-9a-f]{8}", _name(settings))


@pytest.mark.parametrize(
    "changed",
    [
        {"data": "other pixels"},
        {"backbone": "other weights"},
        {"split": SPLIT.assign(part=["test", "train"])},
        {"settings": config.change_settings(config.Config(), {"head.epochs": 7})},
        {"settings": config.change_settings(config.Config(), {"split.protocol": "slide"})},
        {"settings": config.change_settings(config.Config(), {"run.precision": "mixed_float16"})},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_name_depends_on_all_that_changes_the_result(changed):
    assert _name(**changed) != _name()


def test_a_name_depends_on_the_pixels_and_on_the_content_of_the_weights(tmp_path):
    path = tmp_path / "mine.weights.h5"
    model = config.Model(weights=str(path))

    def name(pixels, content):
        path.write_bytes(content)
        images = pd.DataFrame({"file": SPLIT["file"], "pixel_sha256": pixels})
        dataset = Dataset(
            tmp_path, images, images[:0], images[:0], SPLIT, ("benign", "malignant"), "binary", [], images
        )
        return _name(config.Config(model=model), dataset.sha256, weights.weights_identity(model))

    assert name(["1", "2"], b"a") == name(["1", "2"], b"a")
    assert len({name(["1", "2"], b"a"), name(["1", "3"], b"a"), name(["1", "2"], b"b")}) == 3


def test_a_name_depends_on_the_version_of_the_results(monkeypatch):
    before = _name()
    monkeypatch.setattr(run_folder, "RESULTS_VERSION", run_folder.RESULTS_VERSION + 1)
    assert _name() != before


@pytest.mark.parametrize(
    "place, value",
    [
        ("data.root", "/elsewhere"), ("data.cache", "/elsewhere"), ("run.dir", "/elsewhere"),
        ("run.reports", "/elsewhere"), ("model.weights", "/elsewhere/same.weights.h5"), ("run.save_model", False),
    ],
)  # fmt: skip
def test_a_name_does_not_depend_on_places(place, value):
    assert _name(config.change_settings(config.Config(), {place: value})) == _name()


def test_a_protocol_file_counts_by_its_name():
    here, there = (config.change_settings(config.Config(), {"split.protocol": f"{at}/mine.csv"}) for at in "ab")
    assert _name(here) == _name(there) != _name()


def test_a_config_that_was_changed_is_refused(tmp_path):
    settings = _settings(tmp_path, **{"head.epochs": 3})
    with run_folder.open_run(settings, "story-0-0-abcdef01") as run:
        path = run.folder / "config.yaml"
    path.write_text(re.sub(r"(head:\n\s+epochs:) 3", r"\1 7", path.read_text()))
    with (
        pytest.raises(RunError, match=r"head.epochs is 7 there and 3 in this command; delete"),
        run_folder.open_run(settings, run.folder.name),
    ):
        pass


def test_a_run_that_moved_is_still_the_same_run(tmp_path):
    for cache in ("one", "other"):
        with run_folder.open_run(_settings(tmp_path, **{"data.cache": tmp_path / cache}), "story-0-0-abcdef01") as run:
            pass
    assert config.load_config(run.folder / "config.yaml").data.cache == tmp_path / "one"


def test_a_run_that_is_open_is_refused_to_a_second_process(tmp_path):
    settings = _settings(tmp_path)
    with (
        run_folder.open_run(settings, "story"),
        pytest.raises(RunError, match="in use by another process"),
        run_folder.open_run(settings, "story"),
    ):
        pass
    with run_folder.open_run(settings, "story"):
        pass
