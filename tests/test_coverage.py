"""The coverage simulation, in small: real numbers of images, the guard, and a figure of the worst cells."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from breakhis_cls.evaluation import bootstrap

ROOT = Path(__file__).resolve().parents[1]
spec = importlib.util.spec_from_file_location("coverage", ROOT / "scripts/coverage.py")
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)


@pytest.mark.parametrize("cases", coverage.CASES)
def test_simulated_cases_have_the_images_of_the_real_ones(cases):
    table = coverage.simulate(np.random.default_rng(0), (54, 16), cases, 2.0)
    sizes = table.groupby(["label", "case"]).size()
    assert len(table) == 2013 and (sizes.groupby("label").count() == [16, 54]).all()
    assert (sizes["benign"].min(), sizes["benign"].max()) == (12, 118)
    correct = (table["p_malignant"] >= 0.5) == (table["label"] == "malignant")
    by_case = correct.groupby(table["case"]).mean()
    assert 0.75 < correct.mean() < 0.99 and by_case.std() > 0.08  # images of a case are alike


def test_the_guard_lowers_an_end_and_one_fold_is_refused():
    def intervals(size):
        rows = coverage.compute_intervals(0, size, "gaussian", "good")
        table = pd.DataFrame(rows, columns=["metric", "method", "low", "high"]).set_index(["method", "metric"])
        return {method: table.loc[method].astype(float) for method in table.index.unique("method")}

    whole = intervals("all of BreakHis")
    used, plain = whole["in use"], whole["without guard"]
    assert (used["low"] <= plain["low"]).all() and used["low"]["specificity"] < plain["low"]["specificity"]
    width = whole["images"]["high"] - whole["images"]["low"]
    assert width["roc_auc"] < plain["high"]["roc_auc"] - plain["low"]["roc_auc"]
    fold = intervals("one fold of five")["in use"]
    assert set(fold.index[fold["low"].notna()]) == {"sensitivity"}  # three benign cases


def test_the_page_and_the_report_state_the_worst_cell():
    """What they say is read from the committed table, worst cells first."""
    table = pd.read_csv(ROOT / "docs/coverage.csv")
    assert table["covered"].dropna().is_monotonic_increasing
    used = table[table["method"] == "in use"]
    assert list(used.groupby("size")["covered"].min()[list(coverage.SIZES)[:2]]) == list(
        bootstrap.WORST_COVERAGE.values()
    )
    page = (ROOT / "docs/statistics.md").read_text(encoding="utf-8")
    for row in used.head(5).itertuples():
        assert f"| {row.metric} | {row.size} | {row.cases}, {row.quality} | {100 * row.covered:.0f} |" in page


def test_the_script_writes_its_table_and_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "SIZES", {"all of BreakHis": (8, 6), "one fold of five": (6, 3)})
    monkeypatch.setattr(coverage, "CASES", ("gaussian",))
    monkeypatch.setattr(coverage, "ProcessPoolExecutor", InOneProcess)
    monkeypatch.setattr(coverage, "N_RESAMPLES", 100)
    assert coverage.main(["--samples", "3", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "coverage.csv")
    assert set(table["method"]) == set(coverage.METHODS) and table["refused"].between(0, 1).all()
    assert (tmp_path / "coverage.png").is_file() and "roc_auc" in capsys.readouterr().out


class InOneProcess:
    """Stands for a pool: its processes would not see what this test changed."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, *iterables, chunksize=1):
        return map(function, *iterables)
