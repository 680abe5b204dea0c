"""The page that compares experiments on the same test images, paired by case."""

from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from ..evaluation import comparison, metrics, predictions
from ..evaluation.experiments import Experiment
from ..files import write_json, write_text
from . import plots, report, text


def write_comparison(
    experiments: list[Experiment], tables: list[pd.DataFrame], numbers: dict[str, dict[str, Any]], folder: Path
) -> None:
    """Write metrics.json, index.html, which links to each experiment's own report, and tables and figures. tables: of
    `comparison.align_experiments`; numbers: metrics of each experiment, by its name. Where test sets differ, every
    number here is of the common images, and each experiment's own page has those of its own test set."""
    is_cut = {one.name: len(table) < len(one.test) for one, table in zip(experiments, tables, strict=True)}
    numbers = numbers | {
        one.name: numbers[one.name] | metrics.compute_metrics(table)
        for one, table in zip(experiments, tables, strict=True)
        if is_cut[one.name]
    }
    compared = {
        "comparisons": comparison.compare_experiments(experiments, tables),
        "votes": comparison.compare_votes(experiments, tables),
        **predictions.count_units(tables[0]),
    }
    write_json(folder / "metrics.json", {"experiments": numbers, **compared})

    # --- a table for a paper: a row for each metric and pair; models are called A ... Z, A1 ... Z1 ---
    words = metrics.metric_words(predictions.is_binary(tables[0]))
    letters = {one.name: ascii_uppercase[at % 26] + str(at // 26 or "") for at, one in enumerate(experiments)}
    rows = []
    for row in compared["comparisons"]:
        values = [text.number(numbers[row[side]]["pooled"][row["metric"]]["value"]) for side in "ab"]
        shown, tested = "undefined", ["", "", ""]
        if row["difference"] is not None:
            span = row["no_test"] if row["p"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"
            shown = f"{row['difference']:+.3f} ({span})"
        if row["p"] is not None:
            tested = [text.p_value(row["p"]), text.p_value(row["p_holm"]), text.number(row["detectable"])]
        rows.append([f"{letters[row['a']]}, {letters[row['b']]}", words[row["metric"]][0], *values, shown, *tested])
    columns = ["Models", "Metric", "First", "Second", "Second minus first", "p", "p, Holm", "Detectable"]
    headline, finding = describe(compared, numbers, letters, words["roc_auc"][0])
    banners = sorted({banner for one in experiments for banner in text.experiment_banners(one)})
    legend = "; ".join(f"{letters[one.name]}: {one.name} ({one.meta('model')})" for one in experiments)
    caption = " ".join([f"{headline}. {legend}.", *(sentence for _, sentence in banners)])
    text.write_tables(folder, "table", pd.DataFrame(rows, columns=pd.Index(columns)), caption, n_text=2)

    figures = {
        f"confusion_matrix_{letters[one.name]}": plots.confusion_matrix(table, letters[one.name])
        for one, table in zip(experiments, tables, strict=True)
    }
    content = {
        "experiments": experiments, "numbers": numbers, "letters": letters, "headline": headline, "finding": finding,
        "banners": banners, "words": words, "shown_metrics": comparison.COMPARED, "is_cut": any(is_cut.values()),
        "notes": [*map(text.half_done_seeds, experiments)], "rows": rows, "columns": columns,
        "figures": report.save_figures(figures, folder),
    }  # fmt: skip
    write_text(folder / "index.html", text.render("compare.html", content | compared))


def describe(compared: dict[str, Any], numbers: dict[str, Any], letters: dict[str, str], label: str) -> list[str]:
    """The page's title, which model has the higher ROC AUC, and a sentence on whether so many cases could show it."""
    auc = [entry for entry in compared["comparisons"] if entry["metric"] == "roc_auc"]
    entries = [entry for entry in auc if entry["difference"] is not None]
    n_significant = sum(entry["p_holm"] is not None and entry["p_holm"] < 0.05 for entry in entries)
    values = {letter: numbers[name]["pooled"]["roc_auc"]["value"] for name, letter in letters.items()}
    content = {"entries": entries, "n_significant": n_significant, "values": values, "label": label}
    return text.fill_sentences("comparison", compared | content)
