"""The page: one file, no scripts, and it says what no reader may miss."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pandas as pd
import pytest
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import metrics, report, sources


def written(table: pd.DataFrame, folder: Path) -> str:
    experiment = sources.experiments([sources.Source(folder / "p.csv", table)])[0]
    page = report.write(experiment, metrics.of(table, n_resamples=200), folder)
    return html.unescape(page.read_text(encoding="utf-8")).replace("\u00a0", " ")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = written(made(), tmp_path)
    assert "<script" not in page
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)
    assert (
        page.count('src="data:image/svg+xml;base64,') == 7
    )  # five confusion matrices, ROC, precision-recall
    assert "not a medical device" in page and "@media print" in page


def test_the_first_screen_says_what_was_found_on_what(tmp_path: Path) -> None:
    page = written(made(), tmp_path)
    assert (
        "On 60 test images of 13 cases (breakhis-1a2b3c4d, protocol case), net tells malignant from benign"
        in page
    )
    assert "fold 0 (counted from 0)" in page and 'class="banner' not in page
    assert "Few test cases: benign 7, malignant 6." in page


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"protocol": "image"}, "Leaky protocol"),
        ({"data": "synthetic-1a2b3c4d"}, "Synthetic tissue"),
        ({"data": "sample-36slides-1a2b3c4d"}, "Sample: a part of BreakHis"),
    ],
)  # fmt: skip
def test_banners(said: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert re.search(rf'class="banner \w+">{expected}', written(made().assign(**said), tmp_path))


def test_published_folds_are_printed_both_ways(tmp_path: Path) -> None:
    page = written(made(fold=2).assign(protocol="spanhol"), tmp_path)
    assert "fold 2 (counted from 0); as published: 3" in page
    assert "Folders of one case number may be on both sides" in page


def test_eight_classes(tmp_path: Path) -> None:
    page = written(subtypes(), tmp_path)
    assert "macro ROC AUC" in page and "Each class against the rest" in page
    assert "undefined: a case may carry two subtypes" in page


def test_one_class_alone_is_told_not_scored(tmp_path: Path) -> None:
    table = made()
    page = written(table[table["label"] == "malignant"], tmp_path)
    assert "ROC AUC is undefined" in page


def test_text_is_escaped(tmp_path: Path) -> None:
    experiment = sources.experiments([sources.Source(tmp_path / "p.csv", made().assign(model="<b>net</b>"))])[
        0
    ]
    page = report.write(experiment, metrics.of(made(), n_resamples=50), tmp_path)
    assert "<b>net" not in page.read_text(encoding="utf-8")
