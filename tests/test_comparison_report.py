"""The page of several experiments: what it says, and what it links to."""

from __future__ import annotations

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
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert 'href="two/index.html"' in page and "do not differ significantly in ROC AUC" in page
    assert 'class="banner synthetic">Synthetic tissue' in page
    assert len(list(tmp_path.glob("difference_*.svg"))) == len(comparison.COMPARED)


@pytest.mark.slow
def test_more_experiments_than_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "N_PERMUTATIONS", 99)
    tables = [made((40,), seed=seed).assign(model=f"m{seed}", seed=0) for seed in range(28)]
    many = experiments.group_experiments([experiments.Source(Path(f"{at}.csv"), one) for at, one in enumerate(tables)])
    numbers = {one.name: metrics.compute_metrics(one.table, n_resamples=20) for one in many}
    comparison_report.write_comparison(many, comparison.align_experiments(many), numbers, tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<th>Z <a" in page and "<th>AB <a" in page and "AB minus AA" in page


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], "ROC AUC is undefined"),
        ([{"difference": 0.1, "p_holm": 0.0004}], "two has the higher ROC AUC: by 0.100 over one (p < 0.001)"),
        ([{"difference": -0.1, "p_holm": 0.2}], "do not differ significantly in ROC AUC (difference 0.100, p = 0.200)"),
        ([{"difference": 0, "p_holm": None, "no_test": "no case"}], "differs by 0.000; not tested: no case."),
        ([{"difference": 0.1, "p_holm": None}, {"difference": 0.1, "p_holm": 0.5}], "0 of 2 pairs of models differ"),
        ([{"difference": 0.1, "p_holm": 0.01}, {"difference": 0.1, "p_holm": 0.5}], "1 of 2 pairs of models differ"),
    ],
)
def test_finding(entries: list[dict], expected: str):
    about = {"metric": "roc_auc", "a": "one", "b": "two", "detectable": 0.3}
    compared = {"comparisons": [about | entry for entry in entries], "n_images": 1_234, "n_cases": 20}
    sentence = comparison_report.finding(compared, "ROC AUC")
    assert sentence.startswith("On 1,234 images of 20 cases") and expected in sentence
