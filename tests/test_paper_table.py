"""The paper's table: numbers by hand, what stands beside them, and forms that LaTeX and a browser take."""

import re

import numpy as np
import pandas as pd
import pytest

from breakhis_cls import config
from breakhis_cls.evaluation import experiments
from breakhis_cls.names import SUBTYPES
from breakhis_cls.reports import paper_rows, paper_table, papers, plots_sweep, published, sweep_report

N_CASES = 20
METRICS = ["image_accuracy", "recognition_rate", "balanced_accuracy", "roc_auc"]


def predicted(fold=0, seed=0, magnifications=(200,), protocol="spanhol", wrong=1, data="sample-2slides-abc", n_folds=2):
    """Cases fold, fold + n_folds, ... with four images each, of which `wrong` are named wrongly."""
    rows = []
    for case in range(fold, N_CASES, n_folds):
        malignant = case // n_folds % 2 == 1
        for magnification in magnifications:
            for image in range(4):
                right = image >= wrong
                p = 0.9 if malignant == right else 0.1
                rows.append({
                    "file": f"{case}-{magnification}-{image}.png", "slide": f"s{case}", "case": str(case),
                    "magnification": magnification, "label": "malignant" if malignant else "benign",
                    "subtype": "DC" if malignant else "F", "fold": fold, "part": "test", "protocol": protocol,
                    "data": data, "model": "ResNet50_v1 & head", "seed": seed, "p_benign": 1 - p, "p_malignant": p,
                })  # fmt: skip
    return pd.DataFrame(rows)


def as_subtypes(table, classes=tuple(SUBTYPES)):
    """The same answers as probabilities of subtypes."""
    right = (table["p_malignant"] > 0.5) == (table["label"] == "malignant")
    other = np.where(table["subtype"] == "DC", "F", "DC")
    named = np.where(right, table["subtype"], other)
    rest = 0.1 / (len(classes) - 1)
    scores = {f"p_{name}": np.where(named == name, 0.9, rest) for name in classes}
    return table.drop(columns=["p_benign", "p_malignant"]).assign(**scores)


def run(folder, table, **settings):
    """A run's folder that holds what the table needs of one."""
    first = table.iloc[0]
    folder = folder / f"run-{len(list(folder.glob('run-*')))}"
    folder.mkdir(parents=True)
    table.to_csv(folder / "predictions.csv", index=False)
    task = "binary" if "p_benign" in table else "subtype"
    content = {
        "name": "sweep", "split": {"protocol": first["protocol"], "fold": int(first["fold"]), "allow_leaks": True},
        "data": {"task": task, "magnifications": sorted({int(one) for one in table["magnification"]})},
        "run": {"seed": int(first["seed"])},
    }  # fmt: skip
    for section, more in settings.items():
        content[section] = content.get(section, {}) | more
    (folder / "config.yaml").write_text(config.dump_config(config.Config.model_validate(content)))
    return folder


def rows_of(folders):
    return paper_rows.table_rows(
        experiments.group_experiments([experiments.read_source(one) for one in folders]), n_resamples=200
    )


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Spanhol's folds at 200X, two seeds; the same model by case and by image; and one model for 40X and 200X."""
    here = tmp_path_factory.mktemp("sweep")
    made = [run(here, predicted(0, 0, wrong=1)), run(here, predicted(1, 0, wrong=2)),
            run(here, predicted(0, 1, wrong=1)), run(here, predicted(1, 1, wrong=0))]  # fmt: skip
    made += [run(here, predicted(fold, protocol=protocol, wrong=wrong, magnifications=(200,)))
             for protocol, wrong in (("case", 1), ("image", 0)) for fold in (0, 1)]  # fmt: skip
    return made + [run(here, predicted(fold, magnifications=(40, 200))) for fold in (0, 1)]


def test_mean_and_deviation_over_folds_by_hand(sweep):
    (row, *_) = [one for one in rows_of(sweep) if one.protocol == "spanhol" and not one.is_joint]
    score = row.scores["image_accuracy"]
    # Fold 0: 0.75 and 0.75. Fold 1: 0.5 and 1, so 0.75: seeds first, then folds.
    assert score["mean"] == pytest.approx(0.75) and score["sd"] == pytest.approx(0)
    (row,) = rows_of(sweep[:2])
    score = row.scores["image_accuracy"]
    assert score["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert score["sd"] == pytest.approx(np.std([0.75, 0.5], ddof=1))
    assert score["value"] == pytest.approx(0.625)  # pooled; equal, since the folds are of equal size
    assert score["low"] < 0.625 < score["high"]
    assert row.sizes == "2 folds, 1 seed, 80 images, 20 cases"


def test_rows_are_protocol_by_magnification_in_the_order_of_a_paper(sweep):
    rows = rows_of(sweep)
    assert [(row.protocol, row.where, row.is_joint) for row in rows] == [
        ("case", "200X", False), ("spanhol", "200X", False), ("spanhol", "40X", True), ("spanhol", "200X", True),
        ("spanhol", "all", True), ("image", "200X", False),
    ]  # fmt: skip
    joint = [row.model for row in rows if row.is_joint]
    assert all("one model for 40X 200X" in model for model in joint)


def test_published_results_stand_once_under_their_own_conditions(sweep):
    rows = rows_of(sweep)
    beside = {(row.protocol, row.where, row.is_joint): [one.cited for one in row.published] for row in rows}
    amato = ["Amato et al. 2023, Keras ResNet152 triplet + kNN"]
    assert beside["spanhol", "200X", False] == amato and beside["spanhol", "200X", True] == []
    assert beside["spanhol", "40X", True] == amato
    assert beside["case", "200X", False] == []
    assert beside["spanhol", "all", True] == []  # two magnifications are not all of them
    (one,) = published.published_results("spanhol", "binary", "200")
    assert one.scores == {"image_accuracy": (0.887, 0.032), "recognition_rate": (0.884, 0.032)}
    assert "ila_pla_avg_KNN.csv" in one.source


def test_every_published_row_has_a_source_and_is_a_share():
    table = published._read()
    assert len(table) == 21 and (table["source"].str.len() > 10).all() and "same" not in set(table["source"])
    assert table["value"].astype(float).between(0.5, 1).all()
    assert set(table["metric"]) <= set(METRICS)


def test_four_of_the_subtypes_are_kaikos_task(tmp_path):
    table = as_subtypes(predicted(magnifications=(40,), protocol="kaiko_eva"), ("DC", "F", "MC", "TA"))
    (row,) = rows_of([run(tmp_path, table)])
    assert len(row.published) == 7 and all("selects on" in one.note for one in row.published)
    assert row.scores["image_accuracy"]["sd"] is None  # one fold has no deviation
    assert plots_sweep.sweep_figure([row], "as made up").get_suptitle() == "as made up"


def test_what_else_varies_is_said(tmp_path):
    made = [run(tmp_path, predicted(fold, wrong=wrong), head={"peak_lr": rate})
            for fold in (0, 1) for wrong, rate in ((0, 0.001), (2, 0.01))]  # fmt: skip
    rows = rows_of(made)
    assert {row.variant: row.scores["image_accuracy"]["value"] for row in rows} == {
        "head.peak_lr 0.001": 1.0, "head.peak_lr 0.01": 0.5,
    }  # fmt: skip


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    subtypes = [run(out / "runs", as_subtypes(predicted(fold))) for fold in (0, 1)]
    page = paper_table.write_sweep_table([*sweep, *subtypes], out, "A title with 100 % & more")
    return out, page


def test_all_forms_are_written(written):
    out, page = written
    made = {path.name for path in out.iterdir()}
    both = {f"{name}.{kind}" for name in ("paper", "paper_subtype", "leak_penalty") for kind in ("png", "svg")}
    assert {"index.html", "table.csv", "table.md", "table.tex", "leak_penalty.csv", "leak_penalty.md"} | both <= made
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert "medical device" in text and "25.0 points higher" in text  # image 1.00, case 0.75


def test_a_sample_is_never_a_breakhis_result(written, tmp_path):
    out, page = written
    for text in (page.read_text(), (out / "table.md").read_text(), (out / "table.tex").read_text()):
        assert "sample-2slides-abc" in text and "never a BreakHis result" in text
        assert "must not be compared with the published rows" in text and "leaky" in text
    whole = [run(tmp_path, predicted(fold, data="breakhis-123")) for fold in (0, 1)]
    rows = rows_of(whole)
    assert paper_table.banners(rows) == []
    assert "published 0.89" in sweep_report.finding(rows)


def test_the_csv_has_a_line_for_each_metric_and_published_value(written):
    out, _ = written
    table = pd.read_csv(out / "table.csv")
    ours = table[table["by"] == "this package"]
    assert len(ours) == 7 * 4 and set(ours["metric"]) == set(METRICS)
    assert ours[["mean", "value", "n_folds", "n_images", "data"]].notna().all().all()
    theirs = table[table["by"] != "this package"]
    assert theirs["source"].notna().all() and theirs["value"].isna().all()


def test_latex_is_balanced_and_escaped(written):
    out, _ = written
    text = (out / "table.tex").read_text()
    bare = re.sub(r"\\[%&_#${}]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert sorted(re.findall(r"\\begin\{(.*?)\}", text)) == sorted(re.findall(r"\\end\{(.*?)\}", text))
    bodies = re.findall(r"\\toprule\n(.*?)\\bottomrule", bare, re.S)
    assert len(bodies) == 2
    for line in (one for body in bodies for one in body.splitlines() if not one.startswith("\\midrule")):
        assert line.endswith(r"\\") and line.count("&") == 6, line
    outside = [line for line in bare.splitlines() if not line.startswith("%") and not line.endswith(r"\\")]
    assert not any(set(line) & set("%&_#±–") for line in outside)
    assert text.isascii()


def test_escaping_keeps_every_letter():
    assert papers.escaped("a_b & 5 % {x} $ ~ ^ \\") == (
        r"a\_b \& 5 \% \{x\} \$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_markdown_tables_have_equal_rows(written):
    out, _ = written
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}
    assert any("0.887 ± 0.032" in line and "[1]" in line for line in lines)
