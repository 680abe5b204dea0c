"""The page of several experiments: what it says, and what it links to."""

import json
from pathlib import Path

import pytest
from test_predictions import made

from breakhis_cls.evaluation import comparison, experiments, metrics
from breakhis_cls.reports import comparison_report


def test_page_compares_and_links(tmp_path: Path):
    tables = {"one": made(), "two": made(seed=1).assign(model="other", seed=0)}
    tables = {name: table.assign(data="synthetic-1a2b3c4d") for name, table in tables.items()}
    both = experiments.group_experiments([experiments.Source(Path(f"{name}.csv"), one) for name, one in tables.items()])
    numbers = {one.name: metrics.compute_metrics(one.table, n_resamples=50) for one in both}
    aligned = comparison.align_experiments(both)
    comparison_report.write_comparison(both, aligned, numbers, tmp_path)
    compared = json.loads((tmp_path / "metrics.json").read_text())
    assert (compared["n_images"], compared["n_slides"], compared["n_cases"]) == (60, 15, 13)
    auc = [compared["experiments"][name]["pooled"]["roc_auc"]["value"] for name in ("one", "two")]
    entry = next(entry for entry in compared["comparisons"] if entry["metric"] == "roc_auc")
    assert entry["difference"] == pytest.approx(auc[1] - auc[0]) and entry["low"] < entry["difference"] < entry["high"]
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="two/index.html"' in page and "<h1>No significant difference in ROC AUC: " in page
    assert 'class="banner synthetic">Synthetic tissue' in page
    assert '<dt>A</dt><dd><a href="one/index.html">one</a>' in page and "Confusion matrix of B, 60 test images" in page
    assert {path.name for path in tmp_path.glob("*.svg")} == {"confusion_matrix_A.svg", "confusion_matrix_B.svg"}
    table = (tmp_path / "table.md").read_text()
    assert f"| A, B | ROC AUC | {auc[0]:.3f} | {auc[1]:.3f} |" in table and "A: one (net); B: two (other)." in table
    assert "Synthetic tissue" in (tmp_path / "table.tex").read_text()


@pytest.mark.slow
def test_more_experiments_than_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "N_PERMUTATIONS", 99)
    tables = [made((40,), seed=seed).assign(model=f"m{seed}", seed=0) for seed in range(28)]
    many = experiments.group_experiments([experiments.Source(Path(f"{at}.csv"), one) for at, one in enumerate(tables)])
    numbers = {one.name: metrics.compute_metrics(one.table, n_resamples=20) for one in many}
    comparison_report.write_comparison(many, comparison.align_experiments(many), numbers, tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<dt>Z</dt>" in page and "<dt>B1</dt>" in page and "A1, B1" in page


@pytest.mark.parametrize(
    ("entries", "title", "sentence"),
    [
        ([], "ROC AUC is undefined on 1,234 images of 20 cases", "by their other metrics"),
        ([{"difference": 0.1, "p_holm": 0.0004}],
         "B has the higher ROC AUC: 0.900 for B, 0.800 for A (p < 0.001), on", "The difference is 0.100."),
        ([{"difference": 0.1, "p_holm": 0.2}],
         "No significant difference in ROC AUC: 0.900 for B, 0.800 for A (p = 0.200), on",
         "does not show that the models are equal: a difference under 0.300 would mostly be missed."),
        ([{"difference": 0.1, "p_holm": None, "no_test": "no case"}],
         "ROC AUC 0.900 for B, 0.800 for A, not tested, on", "it is not tested: no case."),
        ([{"difference": 0.1, "p_holm": None}, {"difference": 0.1, "p_holm": 0.5}], "0 of 2 pairs of", ""),
        ([{"difference": 0.1, "p_holm": 0.01}, {"difference": 0.1, "p_holm": 0.5}], "1 of 2 pairs of", ""),
    ],
)  # fmt: skip
def test_title_and_sentence(entries: list[dict], title: str, sentence: str):
    about = {"metric": "roc_auc", "a": "one", "b": "two", "detectable": 0.3}
    both, units = [about | entry for entry in entries], {"n_images": 1_234, "n_cases": 20}
    numbers = {name: {"pooled": {"roc_auc": {"value": value}}} for name, value in (("one", 0.8), ("two", 0.9))}
    found = comparison_report.describe(both, units, numbers, {"one": "A", "two": "B"}, "ROC AUC")
    assert found[0].startswith(title) and sentence in found[1]
