"""The page: one file that reads without its script, and it says what no reader may miss."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from test_metrics import subtypes
from test_predictions import made

from breakhis_cls.evaluation import experiments, metrics
from breakhis_cls.reports import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
)  # fmt: skip
PROBE = """
<body><iframe style="width:390px;height:800px;border:0"></iframe><script>
const frame = document.querySelector("iframe"), seen = {};
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (rgb) => rgb.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
function behind(node) {
  for (; node; node = node.parentElement) {
    const colour = parts(frame.contentWindow.getComputedStyle(node).backgroundColor);
    if (colour.length < 4 || colour[3] > 0) return colour;
  }
  return [255, 255, 255];
}
frame.onload = () => {
  const page = frame.contentDocument;
  seen.scroll_px = page.documentElement.scrollWidth;
  seen.missing = [...page.images].filter((image) => !image.naturalWidth).length;
  seen.images = page.images.length;
  const contrasts = [...page.querySelectorAll("body *")].filter((node) => node.innerText).map((node) => {
    const pair = [parts(frame.contentWindow.getComputedStyle(node).color), behind(node)].map(light).sort();
    return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
  });
  seen.contrast = Math.min(...contrasts);
  document.title = JSON.stringify(seen);
};
frame.srcdoc = PAGE;
</script></body>
"""


def looked_at(page: Path, folder: Path) -> tuple[dict[str, float], str]:
    """What headless Chromium measures of a page 390 px wide, and what it logs."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    source = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    probe = folder / "probe.html"
    probe.write_text(f"<!doctype html><meta charset=utf-8><title>none</title>{PROBE.replace('PAGE', source)}")
    command = [
        CHROMIUM,
        *QUIET,
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1280,2400",
        probe.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    return json.loads(html.unescape(title[1])), done.stderr


@pytest.mark.parametrize("table", [made(), subtypes()], ids=["two classes", "eight classes"])
def test_a_phone_shows_the_page_whole_and_readable(table: pd.DataFrame, tmp_path: Path) -> None:
    written(table, tmp_path)
    seen, log = looked_at(tmp_path / "index.html", tmp_path)
    assert seen["scroll_px"] <= 390, "the page scrolls sideways"
    assert seen["images"] >= 11 and seen["missing"] == 0
    assert seen["contrast"] >= 4.5, "WCAG AA for text"
    assert "CONSOLE" not in log


def written(table: pd.DataFrame, folder: Path) -> str:
    experiment = experiments.group_experiments([experiments.Source(folder / "p.csv", table)])[0]
    page = report.write_report(experiment, metrics.compute_metrics(table, n_resamples=200), folder)
    return html.unescape(page.read_text(encoding="utf-8")).replace("\u00a0", " ")


def test_the_page_stands_alone(tmp_path: Path) -> None:
    page = written(made(), tmp_path)
    assert page.count("<script") == 1 and "table.sorts" in page  # sorting alone; nothing is drawn by it
    assert not re.findall(r'(?:src|href)="(?!data:)[^"]*"', page)
    shown = page.count('src="data:image/svg+xml;base64,')
    assert shown == len(list(tmp_path.glob("*.svg"))) == len(list(tmp_path.glob("*.png"))) == 11
    assert "not a medical device" in page and "@media print" in page


def test_the_first_screen_says_what_was_found_on_what(tmp_path: Path) -> None:
    page = written(made(), tmp_path)
    assert "On 60 test images of 13 cases (breakhis-1a2b3c4d, protocol case), net tells malignant from benign" in page
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


def test_what_lies_beside_the_page(tmp_path: Path) -> None:
    written(made(), tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert {"table.tex", "table.md", "model_card.md", "cases.csv", "errors.csv"} <= left
    latex, card = (tmp_path / "table.tex").read_text(), (tmp_path / "model_card.md").read_text()
    assert latex.count(r"\\") == 15 and r"Metric & all & 40X" in latex and "95 \\%" in latex
    assert "Not a medical device" in card and "| ROC AUC |" in card and "{{" not in card
    cases = pd.read_csv(tmp_path / "cases.csv", dtype={"case": str})
    assert len(cases) == 13 and cases["image_accuracy"].is_monotonic_increasing


def test_thresholds_from_validation_are_frozen_in_a_file(tmp_path: Path) -> None:
    validation = made(seed=7).assign(part="validation", seed=0)
    foreign = validation.assign(file="v" + validation["file"].str.replace("SOB", "own"))
    page = written(pd.concat([made(), foreign]), tmp_path)
    assert "Thresholds were chosen on validation" in page and "with temperature" in page
    assert {entry["chosen_on"] for entry in json.loads((tmp_path / "thresholds.json").read_text())} == {"validation"}


def test_eight_classes(tmp_path: Path) -> None:
    page = written(subtypes(), tmp_path)
    assert "macro ROC AUC" in page and "Each class against the rest" in page
    assert "undefined: a case may carry two subtypes" in page


def test_one_class_alone_is_told_not_scored(tmp_path: Path) -> None:
    table = made()
    page = written(table[table["label"] == "malignant"], tmp_path)
    assert "ROC AUC is undefined" in page


def test_text_is_escaped(tmp_path: Path) -> None:
    experiment = experiments.group_experiments(
        [experiments.Source(tmp_path / "p.csv", made().assign(model="<b>net</b>"))]
    )[0]
    page = report.write_report(experiment, metrics.compute_metrics(made(), n_resamples=50), tmp_path)
    assert "<b>net" not in page.read_text(encoding="utf-8")
