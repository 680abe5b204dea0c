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
    pairs = list(zip(experiments, tables, strict=True))
    cut = {one.name: metrics.compute_metrics(table) for one, table in pairs if len(table) < len(one.test)}
    numbers = {name: own | cut.get(name, {}) for name, own in numbers.items()}
    entries, units = comparison.compare_experiments(experiments, tables), predictions.count_units(tables[0])
    write_json(folder / "metrics.json", {"experiments": numbers, "comparisons": entries, **units})

    # --- a table for a paper: a row for each metric and pair; models are called A ... Z, A1 ... Z1 ---
    words = metrics.metric_words(predictions.is_binary(tables[0]))
    letters = {one.name: ascii_uppercase[at % 26] + str(at // 26 or "") for at, one in enumerate(experiments)}
    rows = []
    for entry in entries:
        values = [text.number(numbers[entry[side]]["pooled"][entry["metric"]]["value"]) for side in "ab"]
        shown, tested = "undefined", ["", "", ""]
        if entry["difference"] is not None:
            shown = f"{entry['difference']:+.3f} ({entry.get('no_test')})"
        if entry["p"] is not None:
            shown = f"{entry['difference']:+.3f} ({entry['low']:+.3f} to {entry['high']:+.3f})"
            tested = [text.p_value(entry["p"]), text.p_value(entry["p_holm"]), text.number(entry["detectable"])]
        both = f"{letters[entry['a']]}, {letters[entry['b']]}"
        rows.append([both, words[entry["metric"]][0], *values, shown, *tested])
    columns = ["Models", "Metric", "First", "Second", "Second minus first", "p", "p, Holm", "Detectable"]
    headline, finding = describe(entries, units, numbers, letters, words["roc_auc"][0])
    banners = sorted({banner for one in experiments for banner in text.experiment_banners(one)})
    legend = "; ".join(f"{letters[one.name]}: {one.name} ({one.meta('model')})" for one in experiments)
    caption = " ".join([f"{headline}. {legend}.", *(sentence for _, sentence in banners)])
    text.write_tables(folder, "table", pd.DataFrame(rows, columns=pd.Index(columns)), caption, n_text=2)

    matrices = {f"confusion_matrix_{letters[one.name]}": plots.confusion_matrix(table, letters[one.name])
                for one, table in pairs}  # fmt: skip
    content = {
        "experiments": experiments, "numbers": numbers, "letters": letters, "headline": headline, "finding": finding,
        "banners": banners, "words": words, "shown_metrics": comparison.COMPARED, "is_cut": bool(cut),
        "notes": [*map(text.half_done_seeds, experiments)], "rows": rows, "columns": columns,
        "figures": report.save_figures(matrices, folder),
    }  # fmt: skip
    write_text(folder / "index.html", text.render("compare.html", content | units))


def describe(
    entries: list[dict[str, Any]], units: dict[str, int], numbers: dict[str, Any], letters: dict[str, str], label: str
) -> list[str]:
    """The page's title, which model has the higher ROC AUC, and a sentence on whether so many cases could show it."""
    auc = [entry for entry in entries if entry["metric"] == "roc_auc" and entry["difference"] is not None]
    n_significant = sum(entry["p_holm"] is not None and entry["p_holm"] < 0.05 for entry in auc)
    values = {letter: numbers[name]["pooled"]["roc_auc"]["value"] for name, letter in letters.items()}
    content = {"entries": auc, "n_significant": n_significant, "values": values, "label": label}
    return text.fill_sentences("comparison", units | content)
