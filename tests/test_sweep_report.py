"""The sweep's table: numbers by hand, published results beside them, and forms that LaTeX and a browser read."""

import html
import re

import numpy as np
import pandas as pd
import pytest

from breakhis_cls import config
from breakhis_cls.evaluation import experiments, metrics
from breakhis_cls.names import SUBTYPES
from breakhis_cls.reports import plots_sweep, sweep_report, text

N_CASES = 20
METRICS = ["image_accuracy", "recognition_rate", "balanced_accuracy", "roc_auc"]


def predicted(fold=0, seed=0, magnifications=(200,), protocol="spanhol", wrong=1, data="sample-2slides-abc", n_folds=2):
    """Cases fold, fold + n_folds, ... with four images each, of which `wrong` are misclassified."""
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
    """The same predictions as probabilities of subtypes."""
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


def scored(folders, n_resamples=200):
    """The experiments of run folders, and their metrics."""
    found = experiments.group_experiments([experiments.read_source(one) for one in folders])
    return found, {one.name: metrics.compute_metrics(one.table, n_resamples) for one in found}


def table_of(folders):
    return sweep_report.sweep_table(*scored(folders))


def of_row(table, row, metric="image_accuracy"):
    """This package's line of one row and metric."""
    return table[(table["row"] == row) & (table["metric"] == metric) & (table["by"] == "this package")].iloc[0]


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
    score = of_row(table_of(sweep[:4]), 0)
    # Fold 0: 0.75 and 0.75. Fold 1: 0.5 and 1, so 0.75: seeds first, then folds.
    assert score["mean"] == pytest.approx(0.75) and score["sd"] == pytest.approx(0)
    score = of_row(table_of(sweep[:2]), 0)
    assert score["mean"] == pytest.approx((0.75 + 0.5) / 2)
    assert score["sd"] == pytest.approx(np.std([0.75, 0.5], ddof=1))
    assert score["value"] == pytest.approx(0.625)  # pooled; equal, since the folds are of equal size
    assert score["low"] < 0.625 < score["high"]
    assert [score[f"n_{unit}s"] for unit in ("fold", "seed", "image", "case")] == [2, 1, 80, 20]


def test_rows_are_protocol_by_magnification_in_the_order_of_a_paper(sweep):
    rows = table_of(sweep).drop_duplicates("row")
    assert list(zip(rows["protocol"], rows["magnification"], strict=True)) == [
        ("case", "200"), ("spanhol", "200"), ("spanhol", "40"), ("spanhol", "200"), ("spanhol", "all"),
        ("image", "200"),
    ]  # fmt: skip
    assert rows["model"].str.contains("one model for 40X 200X").tolist() == [False, False, True, True, True, False]


def test_published_results_are_listed_once_under_their_own_conditions(sweep):
    table = table_of(sweep)
    published = table[table["by"] != "this package"]
    # Row 3 has the conditions of row 1; row 4, two magnifications, is not all of them.
    assert set(published["row"]) == {1, 2} and set(published["by"]) == {"Amato et al. 2023"}
    row = published[published["row"] == 1].set_index("metric")
    assert row["mean"].to_dict() == {"image_accuracy": 0.887, "recognition_rate": 0.884}
    assert row["sd"].to_dict() == {"image_accuracy": 0.032, "recognition_rate": 0.032}
    assert row["source"].str.contains("ila_pla_avg_KNN.csv").all()


def test_every_published_row_has_a_source_and_is_a_share():
    table = sweep_report.published_results()
    assert len(table) == 42 and (table["source"].str.len() > 10).all() and "same" not in set(table["source"])
    assert table["mean"].between(0.3, 1).all() and set(table["metric"]) <= set(sweep_report.IN_CSV)


def test_four_of_the_subtypes_are_kaikos_task(tmp_path):
    predictions = as_subtypes(predicted(magnifications=(40,), protocol="kaiko_eva"), ("DC", "F", "MC", "TA"))
    table = table_of([run(tmp_path, predictions)])
    published = table[table["by"] != "this package"]
    assert len(published) == 7 and published["note"].str.contains("selects on").all()
    assert np.isnan(of_row(table, 0)["sd"])  # one fold has no deviation
    figure = plots_sweep.sweep_figure(table, {"roc_auc": "ROC AUC", "balanced_accuracy": "Balanced"}, "A title")
    assert figure.get_suptitle() == "A title" and len(figure.legends[0].get_texts()) == 2 + 7


@pytest.mark.parametrize(
    ("head", "words"),
    [({"kind": "logistic"}, "linear"), ({"kind": "knn"}, "kNN"), ({"kind": "prototype", "shots": 16}, "16 shots")],
)
def test_thunders_f1_stands_beside_the_same_probe_alone(tmp_path, head, words):
    predictions = as_subtypes(predicted(magnifications=(40,), protocol="thunder"), ("DC", "F", "MC", "TA"))
    table = table_of([run(tmp_path, predictions, head=head)])
    published = table[table["by"] != "this package"]
    assert len(published) == 7 and published["model"].str.endswith(f"(frozen, {words})").all()
    first, second = sweep_report.printed_rows(table, sweep_report.citations(table))
    assert first.columns[-1] == "F1, macro" and "0." in second["F1, macro"][0]
    other = table_of([run(tmp_path, predictions, head={"kind": "prototype", "shots": 4})])
    assert set(other["by"]) == {"this package"}


def test_the_null_is_a_range_behind_the_results_of_the_same_head_and_no_row(tmp_path):
    """Seeds of the null that classify 4 and 2 of 4 images correctly in both folds; another head has no null here."""
    folders = [run(tmp_path, predicted(fold, wrong=1), model={"weights": "imagenet"}) for fold in (0, 1)]
    folders += [
        run(tmp_path, predicted(fold, seed, wrong=wrong).assign(model="random"), model={"weights": "random"})
        for fold in (0, 1) for seed, wrong in ((0, 0), (1, 2))
    ]  # fmt: skip
    folders.append(run(tmp_path, predicted(0).assign(model="neighbours"), head={"kind": "knn"}))
    table = table_of(folders)
    assert set(table["row"]) == {0, 1} and not (table["model"] == "random").any()
    accuracy = table[table["metric"] == "image_accuracy"].set_index("model")
    (name,) = [name for name in accuracy.index if "logistic" in name]
    assert accuracy.loc[name, ["null_low", "value", "null_high"]].tolist() == [0.5, 0.75, 1.0]
    assert accuracy.drop(name)["null_low"].isna().all()
    _, second = sweep_report.printed_rows(table, sweep_report.citations(table))
    assert second["Image accuracy"].str.contains("; null 0.500 to 1.000").sum() == 1
    assert "randomly initialised" in sweep_report.notes(table)[0]
    figure = plots_sweep.sweep_figure(table, {"image_accuracy": "Image accuracy"}, "A title")
    assert "null" in {text.get_text()[:4] for text in figure.legends[0].get_texts()}
    alone = table_of(folders[2:6])  # a sweep of random backbones alone has rows
    assert set(alone["row"]) == {0} and "null_low" not in alone


def test_settings_that_vary_are_part_of_the_model(tmp_path):
    folders = [run(tmp_path, predicted(fold, wrong=wrong), head={"peak_lr": rate})
               for fold in (0, 1) for wrong, rate in ((0, 0.001), (2, 0.01))]  # fmt: skip
    table = table_of(folders)
    values = {row["model"].partition("; ")[2]: row["value"] for row in (of_row(table, 0), of_row(table, 1))}
    assert values == {"head.peak_lr 0.001": 1.0, "head.peak_lr 0.01": 0.5}


@pytest.fixture(scope="module")
def written(sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("paper")
    subtypes = [run(out / "runs", as_subtypes(predicted(fold))) for fold in (0, 1)]
    page, headline = sweep_report.write_sweep_report(*scored([*sweep, *subtypes]), out, "A title with 100 % & more")
    assert f"<h1>{headline}</h1>" in html.unescape(page.read_text())
    return out, page


def test_all_forms_are_written(written):
    out, page = written
    made = {path.name for path in out.iterdir()}
    both = {f"{name}.{kind}" for name in ("paper", "paper_subtype") for kind in ("png", "svg")}
    both |= {f"{name}.{kind}" for name in ("table", "table_subtype") for kind in ("md", "tex")}
    assert {"index.html", "table.csv"} | both == made - {"runs"}
    assert all(f'href="{name}"' in page.read_text() for name in both | {"table.csv"})
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "") and "https://" not in text
    assert "medical device" in text and "25.0 points higher" in " ".join(text.split())  # image 1.00, case 0.75


def test_a_sample_is_never_a_breakhis_result(written, tmp_path):
    out, page = written
    for content in (page.read_text(), (out / "table.md").read_text(), (out / "table.tex").read_text()):
        assert "sample-2slides-abc" in content and "never a BreakHis result" in content
        assert "must not be compared with the published rows" in content and "Leaky protocol" in content
    whole = [run(tmp_path, predicted(fold, data="breakhis-123")) for fold in (0, 1)]
    table = table_of(whole)
    assert sweep_report.banners(table) == []
    drawn = sweep_report.banners(table.assign(data="synthetic-1a2b3c4d"))
    assert [kind for kind, _ in drawn] == ["sample", "synthetic"] and "Synthetic tissue" in drawn[1][1]


def test_the_csv_has_a_line_for_each_metric_and_published_value(written):
    out, _ = written
    table = pd.read_csv(out / "table.csv")
    ours = table[table["by"] == "this package"]
    assert len(ours) == 7 * 5 and set(ours["metric"]) == set(sweep_report.IN_CSV)
    assert ours[["mean", "value", "n_folds", "n_images", "data"]].notna().all().all()
    theirs = table[table["by"] != "this package"]
    assert theirs["source"].notna().all() and theirs["value"].isna().all()


def test_latex_is_balanced_and_escaped(written):
    out, _ = written
    text = (out / "table.tex").read_text() + (out / "table_subtype.tex").read_text()
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
    assert text.escape_latex("a_b & 5 % {x} $ ~ ^ \\") == (
        r"a\_b \& 5 \% \{x\} \$ \textasciitilde{} \textasciicircum{} \textbackslash{}"
    )


def test_markdown_tables_have_equal_rows(written):
    out, _ = written
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {8}
    assert any("0.887 ± 0.032" in line and "[1]" in line for line in lines)


def test_leak_penalty_by_hand(tmp_path):
    honest, leaky = predicted(protocol="case", wrong=1, n_folds=1), predicted(protocol="image", wrong=0, n_folds=1)
    table = table_of([run(tmp_path, one) for one in (honest, leaky)])
    [sentence] = sweep_report.leak_penalties(table)
    # One in four scores is on the wrong side, on each side: of all pairs 9/16 are right, 6/16 tied, 1/16 wrong.
    assert of_row(table, 0, "roc_auc")["value"] == pytest.approx(9 / 16 + 3 / 16)
    assert sentence.startswith("ResNet50_v1 & head, sample-2slides-abc, 200X: ROC AUC 1.00 (")  # from the leakiest
    assert ") with the split by image, 0.75 (" in sentence and ") with the split by case." in sentence
    assert "25.0 points higher in accuracy" in sentence
    assert sweep_report.leak_penalties(table[table["protocol"] == "case"]) == []


def test_every_form_of_the_table_contradicts_a_claim_that_its_rows_refute(tmp_path):
    """Split by image under the name of the protocol `case`: validation holds the cases of the test rows."""
    test = predicted(protocol="case", n_folds=1)
    seen = test.assign(part="validation", file="v" + test["file"])
    pd.concat([test, seen]).to_csv(tmp_path / "mine.csv", index=False)
    sweep_report.write_sweep_report(*scored([tmp_path / "mine.csv"]), tmp_path / "out", "mine")
    for name in ("index.html", "table.md", "table.tex"):
        assert "Contradiction: The table says protocol case" in (tmp_path / "out" / name).read_text()
