"""The page that compares experiments on the same test images, paired by case."""

from __future__ import annotations

from itertools import count, product
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from ..evaluation import comparison, predictions
from ..evaluation.experiments import Experiment
from ..evaluation.metrics import metric_words
from ..files import write_json, write_text
from . import plots, report, text


def write_comparison(
    experiments: list[Experiment], tables: list[pd.DataFrame], numbers: dict[str, dict[str, Any]], folder: Path
) -> None:
    """Write metrics.json, index.html, which links to each experiment's own report, and the figures of differences.

    tables: of `comparison.align_experiments`; numbers: metrics of each experiment, by its name.
    """
    compared = {
        "comparisons": comparison.compare_experiments(experiments, tables),
        "votes": comparison.compare_votes(experiments, tables),
        **predictions.count_units(tables[0]),
    }
    write_json(folder / "metrics.json", {"experiments": numbers, **compared})

    words = metric_words(predictions.is_binary(tables[0]))
    # Names of runs are too long for an axis: pairs are `B minus A`.
    lettered = ("".join(letters) for n in count(1) for letters in product(ascii_uppercase, repeat=n))  # A ... Z, AA
    letters = dict(zip((one.name for one in experiments), lettered, strict=False))
    figures = {}
    for metric in comparison.COMPARED:
        entries = [entry for entry in compared["comparisons"] if entry["metric"] == metric]
        pairs = [f"{letters[entry['b']]} minus {letters[entry['a']]}" for entry in entries]
        figures[f"difference_{metric}"] = plots.differences(entries, pairs, words[metric][0])
    banners = {banner for one in experiments for banner in text.experiment_banners(one)}
    content = {
        "experiments": experiments, "numbers": numbers, "letters": letters,
        "finding": finding(compared, words["roc_auc"][0]), "banners": sorted(banners), "words": words,
        "shown_metrics": comparison.COMPARED, "notes": [*map(text.half_done_seeds, experiments)],
        "is_cut": any(len(table) < len(one.test) for one, table in zip(experiments, tables, strict=True)),
        "figures": report.save_figures(figures, folder),
    }  # fmt: skip
    write_text(folder / "index.html", text.render("compare.html", content | compared))


def finding(compared: dict[str, Any], label: str) -> str:
    """Which model has the higher ROC AUC, by how much, and whether that many cases could show it."""
    entries = [entry for entry in compared["comparisons"] if entry["metric"] == "roc_auc"]
    entries = [entry for entry in entries if entry["difference"] is not None]
    where = f"On {compared['n_images']:,} images of {text.count(compared['n_cases'], 'case')}"
    if not entries:
        return f"{where}, {label} is undefined; the models are compared by their other metrics."
    if len(entries) > 1:
        n_significant = sum(entry["p_holm"] is not None and entry["p_holm"] < 0.05 for entry in entries)
        pairs = f"{n_significant} of {len(entries)} pairs of models"
        return f"{where}, {pairs} differ significantly in {label} (Holm, 5 %)."
    entry = entries[0]
    better, worse = (entry["b"], entry["a"]) if entry["difference"] > 0 else (entry["a"], entry["b"])
    gap = abs(entry["difference"])
    if entry["p_holm"] is None:
        return (
            f"{where}, {label} of {entry['a']} and {entry['b']} differs by {gap:.3f}; not tested: {entry['no_test']}."
        )
    p = text.p_value(entry["p_holm"])
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    if entry["p_holm"] < 0.05:
        return f"{where}, {better} has the higher {label}: by {gap:.3f} over {worse} ({p})."
    return (
        f"{where}, {entry['a']} and {entry['b']} do not differ significantly in {label} (difference {gap:.3f}, {p}). "
        f"This does not show that they are equal: a difference under {entry['detectable']:.3f} would mostly be missed."
    )
