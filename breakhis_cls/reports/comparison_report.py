"""The page that compares experiments on the same test images, paired by case."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

import pandas as pd

from .. import __version__
from ..evaluation import comparison, predictions
from ..evaluation.experiments import Experiment
from ..evaluation.metrics import metric_words
from ..files import write_text
from . import plots_calibration, report, text


def compute_comparison(experiments: list[Experiment], tables: list[pd.DataFrame]) -> dict[str, Any]:
    """`{"comparisons": [...], "votes": [...], "n_images": , "n_slides": , "n_cases": }`, as `comparison`
    makes them."""
    return {
        "comparisons": comparison.compare_experiments(experiments, tables),
        "votes": comparison.compare_votes(experiments, tables),
        **predictions.count_units(tables[0]),
    }


def write_comparison(
    experiments: list[Experiment], tables: list[pd.DataFrame], numbers: dict[str, dict[str, Any]],
    found: dict[str, Any], folder: Path,
) -> Path:  # fmt: skip
    """Write index.html, which leads to each experiment's own report, and the figures of differences."""
    words = metric_words(predictions.is_binary(tables[0]))
    letters = {one.name: letter for one, letter in zip(experiments, ascii_uppercase, strict=False)}
    made = {}
    for metric in comparison.COMPARED:
        entries = [entry for entry in found["comparisons"] if entry["metric"] == metric]
        pairs = [f"{letters[entry['b']]} minus {letters[entry['a']]}" for entry in entries]
        made[f"difference_{metric}"] = plots_calibration.differences(entries, pairs, words[metric][0])
    whole = {one.name: len(table) == len(one.test) for one, table in zip(experiments, tables, strict=True)}
    content = {
        "experiments": [
            {"letter": letters[one.name], **_about(one, numbers[one.name], whole[one.name])} for one in experiments
        ],
        "letters": letters,
        "finding": finding(found, words["roc_auc"][0]),
        "banners": sorted({banner for one in experiments for banner in text.banners(one)}),
        "labels": {name: label for name, (label, _) in words.items()},
        "shown_metrics": comparison.COMPARED,
        "cut": not all(whole.values()),
        "version": __version__,
        **found,
    }
    page = folder / "index.html"
    shown = report.save_figures(made, folder)
    write_text(page, report.render("compare.html", content | {"figures": shown}))
    return page


def finding(found: dict[str, Any], label: str) -> str:
    """Which model has the higher ROC AUC, by how much, and whether so few cases could tell."""
    entries = [
        entry for entry in found["comparisons"] if entry["metric"] == "roc_auc" and entry["difference"] is not None
    ]
    where = f"On {found['n_images']:,} images of {text.count(found['n_cases'], 'case')}"
    if not entries:
        return f"{where} {label} is undefined, and the models are compared by their other metrics."
    if len(entries) > 1:
        clear = sum(entry["p_holm"] < 0.05 for entry in entries)
        return f"{where}, {clear} of {len(entries)} pairs of models differ in {label} beyond chance (Holm, 5 %)."
    entry = entries[0]
    better, worse = (entry["b"], entry["a"]) if entry["difference"] > 0 else (entry["a"], entry["b"])
    gap = abs(entry["difference"])
    if entry["p_holm"] < 0.05:
        return f"{where}, {better} has the higher {label}: by {gap:.3f} over {worse} (p {_equals(entry['p_holm'])})."
    return (
        f"{where}, {entry['a']} and {entry['b']} are not told apart by {label} (difference {gap:.3f}, p "
        f"{_equals(entry['p_holm'])}); that is not equality: a difference under {entry['detectable']:.3f} would "
        "mostly be missed."
    )


def _equals(p: float) -> str:
    told = text.p_value(p)
    return told if told.startswith("<") else f"= {told}"


def _about(one: Experiment, numbers: dict[str, Any], whole: bool) -> dict[str, Any]:
    return {
        "name": one.name, "model": one.meta("model"), "protocol": one.meta("protocol"), "data": one.meta("data"),
        "folds": text.folds(one), "pooled": numbers["pooled"], "whole": whole,
    }  # fmt: skip
