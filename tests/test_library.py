"""The library: `import breakhis_cls as bk` is quick, its names are there, and docs/api.md shows each at work."""

import html
import importlib
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_docs import FENCE

import breakhis_cls as bk
from breakhis_cls import config
from breakhis_cls.errors import ConfigError
from breakhis_cls.train import TrainedRun

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
HEAVY = {"tensorflow", "keras", "kaggle", "matplotlib", "ray", "optuna"}
SMALL = {
    "image.height_px": 32, "image.width_px": 48, "model.weights": "random", "head.epochs": 1, "tune.part": "none",
    "run.save_model": False,
}  # fmt: skip


def test_importing_the_library_imports_nothing_heavy():
    program = (
        "import sys, breakhis_cls\n"
        f"heavy = {HEAVY | {'pandas', 'numpy', 'pydantic'}} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "breakhis_cls.load_config, breakhis_cls.train_run, breakhis_cls.evaluate_runs\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_name_is_there_and_none_is_a_module():
    names = {"load_config", "load_dataset", "train_run", "evaluate_runs", "predict_images", "audit_split"}
    assert set(bk._LIBRARY) == names and names <= set(dir(bk))
    for module in pkgutil.iter_modules(bk.__path__, "breakhis_cls."):
        assert module.name.partition(".")[2] not in names
        importlib.import_module(module.name)
    assert all(callable(getattr(bk, name)) for name in names)
    with pytest.raises(AttributeError, match="no attribute 'train_runs'"):
        _ = bk.train_runs


def test_load_config_changes_settings_by_their_dotted_names():
    settings = bk.load_config("demo", **{"split.fold": 2, "name": "mine"})
    assert (settings.split.fold, settings.name, settings.tune.part) == (2, "mine", "all")
    with pytest.raises(ConfigError, match=r"unknown setting 'split.fould'; did you mean 'split.fold'\?"):
        bk.load_config("demo", **{"split.fould": 2})


@pytest.fixture(scope="module")
def shown(tiny_tree, tmp_path_factory):
    """The names that the blocks of the page leave behind, run in order on small images of the tiny tree."""
    here = tmp_path_factory.mktemp("library")
    load_config, blocks = bk.load_config, [text for kind, text in FENCE.findall(PAGE.read_text()) if kind == "python"]

    def load_small(name, **changes):
        tree = {"data.root": str(tiny_tree), "data.cache": here / "cache", "split.n_folds": 3}
        return load_config(name, **(SMALL | tree | changes))

    found: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setitem(vars(bk), "load_config", load_small)
        for block in blocks:
            exec(compile(block, PAGE.name, "exec"), found)
        yield found


def test_every_block_of_the_page_runs_and_every_name_has_one(shown):
    page = PAGE.read_text()
    assert all(f"## {name}\n" in page and f"bk.{name}(" in page for name in bk._LIBRARY)
    assert shown["audit"].protocol == "spanhol" and len(shown["audit"].leaks)
    assert (shown["folder"] / "index.html").is_file()


def test_a_run_shows_its_numbers_its_matrix_and_its_places(shown):
    run = shown["run"]
    pooled, test = run.metrics["pooled"], run.predictions[run.predictions["part"] == "test"]
    written = pd.read_csv(run.folder / "predictions.csv")
    assert run.predictions["p_malignant"].tolist() == written["p_malignant"].tolist()
    assert isinstance(run.confusion_matrix(), Figure) and run.experiment.settings == run.settings

    page = run._repr_html_()
    rows = {row[0]: row[1:] for row in (re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in page.split("<tr")) if row}
    assert rows["ROC AUC"][0] == f"{pooled['roc_auc']['value']:.3f}"
    assert re.fullmatch(r"too few cases.*|\d.* to \d.*", rows["ROC AUC"][1])
    truth, says = test["label"] == "malignant", test["p_malignant"] >= 0.5
    expected = [[sum(~truth & ~says), sum(~truth & says)], [sum(truth & ~says), sum(truth & says)]]
    assert [[int(n) for n in rows[label]] for label in ("benign", "malignant")] == expected
    assert html.escape(str(run.report())) in page and str(run.folder) in page


def test_the_report_is_made_where_it_is_missing(shown, tmp_path):
    run = shown["run"]
    settings = config.change_settings(run.settings, {"run.reports": tmp_path})
    again = TrainedRun(run.folder, settings)
    assert again.report() == tmp_path / run.folder.name / "index.html" and again.report().is_file()
    written = json.loads((again.report().parent / "metrics.json").read_text())
    assert written["pooled"] == run.metrics["pooled"]
