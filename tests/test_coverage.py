"""The coverage simulation, in small: intervals of every method, and a figure of them."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

spec = importlib.util.spec_from_file_location("coverage", Path(__file__).resolve().parents[1] / "scripts/coverage.py")
coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(coverage)


def test_every_method_gives_an_interval_and_percentiles_are_narrower():
    rows = coverage.compute_intervals(0, "one fold of five", "a good model")
    table = pd.DataFrame(rows, columns=["metric", "method", "low", "high"]).set_index(["method", "metric"])
    assert set(table.index.get_level_values("method")) == set(coverage.METHODS)
    assert (table["low"] <= table["high"]).all()
    width = (table["high"] - table["low"]).unstack("method")
    assert width.loc["roc_auc", "images"] < width.loc["roc_auc", "percentile"] < width.loc["roc_auc", "logit_t"]


@pytest.mark.slow
def test_the_script_writes_its_table_and_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(coverage, "SIZES", {"all of BreakHis": (54, 16)})
    monkeypatch.setattr(coverage, "MODELS", {"a good model": 2.0})
    monkeypatch.setattr(coverage, "ProcessPoolExecutor", InOneProcess)
    monkeypatch.setattr(coverage, "N_RESAMPLES", 200)
    assert coverage.main(["--samples", "10", "--out", str(tmp_path)]) == 0
    table = pd.read_csv(tmp_path / "coverage.csv")
    covered = table.set_index(["method", "metric"])["covered"]
    assert covered["logit_t"].min() > 0.7 and covered["images", "roc_auc"] < covered["logit_t", "roc_auc"]
    assert (tmp_path / "coverage.png").is_file() and "roc_auc" in capsys.readouterr().out


class InOneProcess:
    """Stands for a pool: its processes would not see what this test changed."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, *iterables, chunksize=1):
        return map(function, *iterables)
