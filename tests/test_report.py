"""Two whole reports are drawn, of two classes and of eight; the other tests read sentences and tables."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_metrics import subtypes
from test_plots import HISTORY
from test_predictions import made

from breakhis_cls.evaluation import experiments, metrics
from breakhis_cls.reports import report, text

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


def measure_page(page: Path, folder: Path) -> tuple[dict[str, float], str]:
    """What headless Chromium measures of a page 390 px wide, and what it logs."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title, done.stderr
    return json.loads(html.unescape(title[1])), done.stderr


def experiment_of(table: pd.DataFrame, history: pd.DataFrame | None = None) -> experiments.Experiment:
    return experiments.group_experiments([experiments.Source(Path("p.csv"), table, history=history)])[0]


def draw(experiment: experiments.Experiment, folder: Path, images_root: Path | None = None) -> str:
    page = report.write_report(
        experiment, metrics.compute_metrics(experiment.table, n_resamples=200), folder, images_root
    )
    return html.unescape(page.read_text(encoding="utf-8")).replace("\u00a0", " ")


def check_page(page: str, folder: Path) -> None:
    """It needs no other file; every link leads somewhere; a phone shows it whole, in readable contrast."""
    assert page.count("<script") == 1 and "table.sorts" in page  # printing and sorting; nothing is drawn by it
    assert not re.findall(r'src="(?!data:)[^"]*"', page)
    links = set(re.findall(r'href="(?!data:)([^"]*)"', page))
    anchors, files = {link for link in links if link[0] == "#"}, {link for link in links if link[0] != "#"}
    assert {"#confusion-matrix", "#metrics", "#runs"} <= anchors
    assert all(f'id="{link[1:]}"' in page for link in anchors)
    missing = {name for name in files if not (folder / name).exists()}
    assert missing <= {"metrics.json", os.path.relpath("p.csv", folder)}  # which evaluate writes, or was given
    for name in (path.name for path in folder.iterdir() if path.suffix in (".png", ".svg", ".csv", ".tex", ".md")):
        assert f'href="{name}"' in page, name
    assert page.count('src="data:image/') == len(list(folder.glob("*.png")))
    tables = page.count("<table")
    assert tables == page.count("<caption>") and not re.findall(r"<th(?![^>]*scope=)[ >]", page)
    assert not re.findall(r'<img [^>]*alt=""', page) and 'alt="Confusion matrix, ' in page
    assert "not a medical device" in page and "@media print" in page
    measured, log = measure_page(folder / "index.html", folder)
    assert measured["scroll_px"] <= 390, "the page scrolls sideways"
    assert measured["images"] >= 7 and measured["missing"] == 0
    assert measured["contrast"] >= 4.5, "WCAG AA for text"
    assert "CONSOLE" not in log


def check_checklist(page: str, folder: Path) -> None:
    """Every item has an answer, and every link to a section of the page resolves."""
    lines = (folder / "checklist.md").read_text(encoding="utf-8").splitlines()
    items = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| \d", line)]
    assert len(items) == 44 + 52
    links = [re.fullmatch(r"\[(.+)\]\(index\.html#([\w-]+)\)", answer) for _, _, answer in items]
    for (_, _, answer), link in zip(items, links, strict=True):
        assert link or re.match("(missing|not applicable): .", answer), answer
    sections = set(re.findall(r'<h2 id="([\w-]+)">(.+?)</h2>', page))
    found = {(link[2], link[1]) for link in links if link}
    assert found <= sections and len(found) >= 6


def test_report_of_two_classes(tiny_tree: Path, tmp_path: Path) -> None:
    """Everything that a report can show: validation rows, history, images, and all three warnings."""
    table = made().assign(protocol="image", data="synthetic-1a2b3c4d", model="<b>net</b>")
    validation = table.assign(part="validation", file="v" + table["file"].str.replace("SOB", "own"))
    # Timid probabilities on validation, so that the temperature sharpens those of test too much.
    timid = {name: 0.5 + 0.4 * (table[name] - 0.5) for name in ("p_benign", "p_malignant")}
    experiment = experiment_of(pd.concat([table, validation.assign(**timid)]), HISTORY)
    page = draw(experiment, tmp_path, tiny_tree / "BreaKHis_v1")
    check_page(page, tmp_path)

    # Guards: without these banners, scores of drawn tissue or of a leaky split would look like results.
    assert re.search(r'class="banner synthetic">Synthetic tissue', page)
    assert re.search(r'class="banner leaky">Leaky protocol', page)
    assert "&lt;b&gt;net" in (tmp_path / "index.html").read_text(encoding="utf-8")

    assert "Temperature scaling made log loss worse on test." in page
    assert "promised 60.7 %" in page  # 0.05 ** (1 / 6): six malignant cases
    assert "Thresholds were chosen on validation" in page and "with temperature scaling" in page
    assert {one["chosen_on"] for one in json.loads((tmp_path / "thresholds.json").read_text())} == {"validation"}
    names = {path.name for path in tmp_path.iterdir()}
    assert {"confusion_matrix.png", "confusion_matrix_40x.svg", "learning_curves.png",
            "confident_errors.png", "table.tex", "table.md", "model_card.md", "errors.csv", "calibration.json",
            "net_benefit.csv", "decision_curve.svg", "checklist.md"} <= names  # fmt: skip
    latex, card = (tmp_path / "table.tex").read_text(), (tmp_path / "model_card.md").read_text()
    assert re.search(r"<h1>ROC AUC 0\.\d\d \(0\.\d\d to [01]\.\d\d\) on 13 test cases: p, fold 0</h1>", page)
    assert latex.count(r"\\") == 16 and r"Metric & all & 40X" in latex and "95 \\%" in latex and latex.isascii()
    assert "Synthetic tissue" in card and "| ROC AUC |" in card and "{{" not in card
    check_checklist(page, tmp_path)
    cases = pd.read_csv(tmp_path / "cases.csv", dtype={"case": str})
    assert len(cases) == 13 and cases["image_accuracy"].is_monotonic_increasing


def test_report_of_eight_classes(tmp_path: Path) -> None:
    table = subtypes()
    others = {name: "v" + table[name] for name in ("slide", "case")}
    validation = table.assign(part="validation", file="v" + table["file"].str.replace("SOB", "own"), **others)
    page = draw(experiment_of(pd.concat([table, validation])), tmp_path)
    assert "fold 0, seed 0: validation has 1 A cases; at least 3 of each class are needed" in page
    check_page(page, tmp_path)
    assert "macro ROC AUC" in page and "Each class against the rest" in page
    check_checklist(page, tmp_path)
    assert (
        "Decisions" not in page
        and "missing: this report has no such section" in (tmp_path / "checklist.md").read_text()
    )
    assert "undefined: a case may carry two subtypes" in page and 'class="banner' not in page


def test_a_claim_that_the_rows_refute_is_not_repeated(tmp_path: Path) -> None:
    table = made().assign(part=["test", "validation"] * 30)
    page = draw(experiment_of(table), tmp_path)
    assert 'class="banner leaky">Contradiction: The table says protocol case, but 30 of 30 test images share' in page
    assert "no case has images in training and in test" not in page + (tmp_path / "model_card.md").read_text()


def test_swapped_probability_columns_get_a_hint() -> None:
    table = made().rename(columns={"p_benign": "p_malignant", "p_malignant": "p_benign"})
    sentence = text.finding(experiment_of(table), metrics.compute_metrics(table, n_resamples=50))
    assert "the classes are swapped" in sentence
    assert "swapped" not in text.finding(experiment_of(made()), metrics.compute_metrics(made(), n_resamples=50))


def test_finding_says_what_was_measured_on_what() -> None:
    table = made()
    sentence = text.finding(experiment_of(table), metrics.compute_metrics(table, n_resamples=50))
    assert sentence.startswith("On 60 test images of 13 cases (breakhis-1a2b3c4d, protocol case), net reaches ROC AUC")
    one_class = table[table["label"] == "malignant"]
    sentence = text.finding(experiment_of(one_class), metrics.compute_metrics(one_class, n_resamples=50))
    assert "ROC AUC is undefined: only malignant images in test" in sentence


@pytest.mark.parametrize(
    ("protocol", "data", "kind"),
    [
        ("image", "breakhis-1a2b3c4d", "leaky"),
        ("case", "synthetic-1a2b3c4d", "synthetic"),
        ("case", "sample-36slides-1a2b3c4d", "sample"),
    ],
)
def test_banners(protocol: str, data: str, kind: str) -> None:
    assert [found for found, _ in text.banners(protocol, data)] == [kind]
    assert text.banners("case", "breakhis-1a2b3c4d") == []


def test_caveats_name_few_cases_shared_folders_and_repetitions() -> None:
    assert "Few test cases: benign 7, malignant 6. Intervals from so few cases are rough." in text.caveats(
        experiment_of(made())
    )
    published = experiment_of(pd.concat([made(fold=2), made(fold=2, seed=1)]).assign(protocol="spanhol"))
    sentences = text.caveats(published)
    assert "spanhol splits by folder" in sentences[0] and "1 of 5 folds" in sentences[2]
    assert any(sentence.startswith("Images are tested more than once") for sentence in sentences)
    assert text.folds(published) == "fold 2 (counted from 0); as published: 3"


def test_a_seed_that_lacks_folds_is_named() -> None:
    folds = [made(seed=seed, fold=fold)[fold::2] for seed, fold in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert text.half_done_seeds(experiment_of(pd.concat(folds))) == ""
    half_done = experiment_of(pd.concat(folds[:3]))
    assert "p: seed 1 lacks fold 1." in text.half_done_seeds(half_done)
    assert text.half_done_seeds(half_done) in text.caveats(half_done)


def test_where_there_is_no_interval_the_reason_stands_in_its_place(tmp_path: Path) -> None:
    """Three benign cases: every interval that mixes the classes is refused, wherever one is printed."""
    few = made()
    few = few[~few["case"].isin(few.loc[few["label"] == "benign", "case"].unique()[3:])]
    experiment, numbers = experiment_of(few), metrics.compute_metrics(few, n_resamples=50)
    assert text.headline(experiment, numbers).startswith("ROC AUC 0.")
    assert "(too few cases) on 9 test cases" in text.headline(experiment, numbers)
    assert "(no interval: too few cases: 3)" in text.finding(experiment, numbers)
    page = draw(experiment, tmp_path)
    assert "(too few cases)" in page and "<td>too few cases: 3</td>" in page
    for name in ("table.md", "table.tex", "model_card.md"):
        assert "(too few cases)" in (tmp_path / name).read_text()
    one_class = few[few["label"] == "malignant"]
    shown = text.headline(experiment_of(one_class), metrics.compute_metrics(one_class, n_resamples=50))
    assert shown.startswith("ROC AUC undefined on 6 test cases")


def test_latex_and_markdown_of_a_table(tmp_path: Path) -> None:
    table = pd.DataFrame([["a_b & 5 %", "0.9 ± 0.1"], ["", "0.8–1.0"]], columns=["Name_1", "x"])
    markdown = text.write_tables(tmp_path, "t", table, "100 %")
    latex = (tmp_path / "t.tex").read_text()
    assert r"\caption{100 \%}" in latex and r"a\_b \& 5 \% & 0.9 $\pm$ 0.1 \\" in latex
    assert r"Name\_1 & x \\" in latex and r" & 0.8--1.0 \\" in latex and r"\begin{tabular}{lr}" in latex
    assert markdown.splitlines()[:2] == ["| Name_1 | x |", "| --- | ---: |"] and markdown.endswith("\n\n100 %\n")
    assert (tmp_path / "t.md").read_text() == markdown


def test_a_model_that_calls_every_image_malignant_has_a_report(tmp_path: Path) -> None:
    """No image is predicted benign, so the negative predictive value divides by nothing."""
    table = made().assign(p_benign=0.1, p_malignant=0.9)
    numbers = metrics.compute_metrics(table, n_resamples=50)
    page = report.write_report(experiment_of(table), numbers, tmp_path, None)
    assert "not defined on these images" in page.read_text(encoding="utf-8")


def test_a_subtype_without_images_at_a_magnification_has_an_empty_cell(tmp_path: Path) -> None:
    table = made()
    is_rare = table["subtype"] == table["subtype"].iloc[0]
    zoom = np.where(is_rare, 40, np.resize([40, 100], len(table)))
    page = draw(experiment_of(table.assign(magnification=zoom)), tmp_path)
    assert page.count('<td class="soft">·</td>') == 1
