"""What reports say in words: the finding, the protocol, the caveats, the names of metrics."""

from __future__ import annotations

from typing import Any

from .. import names
from ..evaluation import predictions
from ..evaluation.experiments import Experiment
from .plots import percent

PROTOCOLS = {
    "case": "split by case number: no case has images in training and in test",
    "slide": "split by slide folder: folders of one case number may lie on both sides",
    "spanhol": "the published folds of Spanhol et al. 2016: by folder, so that folders of one case number lie on both "
    "sides for 27-39 % of the test images",
    "kaiko_eva": "the fixed split of kaiko-eva (40X, four subtypes): by folder, so that folders of one case number may "
    "lie on both sides",
    "image": "split by image: images of one slide lie in training and in test, so that the scores are too high",
}


def number(value: float | None, digits: int = 3) -> str:
    """0.9227 -> `0.923`; undefined -> a dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def p_value(p: float) -> str:
    """0.0312 -> `0.031`; below a thousandth only that."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def span(result: dict[str, Any], low: str = "low", high: str = "high", digits: int = 3) -> str:
    """`0.877 to 0.961`, or an empty string where there is no interval."""
    if result.get(low) is None or result.get(high) is None:
        return ""
    return f"{result[low]:.{digits}f} to {result[high]:.{digits}f}"


def count(n: int, unit: str) -> str:
    """`1 case`, `1,234 cases`."""
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def finding(experiment: Experiment, metrics: dict[str, Any]) -> str:
    """The result in one sentence, with what it was measured on and by which split."""
    pooled = metrics["pooled"]
    counts = pooled["image_accuracy"]
    where = f"{count(counts['n_images'], 'test image')} of {count(counts['n_cases'], 'case')} ({_split(experiment)})"
    return f"On {where}, {experiment.meta('model')} {_reached(pooled, predictions.is_binary(experiment.table))}."


def _split(experiment: Experiment) -> str:
    return f"{experiment.meta('data')}, protocol {experiment.meta('protocol')}"


def _reached(pooled: dict[str, Any], binary: bool) -> str:
    right = f"names {percent(pooled['image_accuracy']['value'])} of images right"
    auc = pooled["roc_auc"]
    if auc["value"] is None:
        return f"{right}; ROC AUC is undefined: {auc['undefined'].replace(' here', ' in test')}"
    interval = f" (95 % interval over cases {span(auc, digits=2)})" if span(auc) else " (too few cases for an interval)"
    reached = f"ROC AUC {auc['value']:.2f}{interval}"
    if not binary:
        balanced = pooled["balanced_accuracy"]["value"]
        return f"tells the subtypes apart with macro {reached}, balanced accuracy {balanced:.2f}, and {right}"
    missed = percent(1 - pooled["sensitivity"]["value"])
    return f"tells malignant from benign with {reached}, {right} and misses {missed} of the malignant ones"


def protocol(experiment: Experiment) -> str:
    """The protocol's name and what it means for the score."""
    name = experiment.meta("protocol")
    return f"{name}: {PROTOCOLS.get(name, 'a split of its own; `breakhis audit` tells what it leaks')}"


def folds(experiment: Experiment) -> str:
    """`fold 0`; the published folds, which count from 1, in both ways."""
    found = sorted(experiment.test["fold"].unique())
    several = "folds" if len(found) > 1 else "fold"
    counted = f"{several} {', '.join(str(fold) for fold in found)} (counted from 0)"
    if experiment.meta("protocol") == "spanhol":
        return f"{counted}; as published: {', '.join(str(fold + 1) for fold in found)}"
    return counted


def banners(experiment: Experiment) -> list[tuple[str, str]]:
    """(kind, sentence) of what no reader may miss: leaky protocol, sample, synthetic tissue."""
    data, told = experiment.meta("data"), []
    if experiment.meta("protocol") == "image":
        told.append(("leaky", "Leaky protocol: images of one slide are in training and in test. These scores do not "
                              "say how well new patients would be classified."))  # fmt: skip
    if data.startswith("synthetic"):
        told.append(("synthetic", "Synthetic tissue: drawn by a program to try the software. These scores say nothing "
                                  "about real tissue."))  # fmt: skip
    if data.startswith("sample"):
        told.append(("sample", "Sample: a part of BreakHis. These scores do not compare with scores on the full set."))
    return told


def caveats(experiment: Experiment, metrics: dict[str, Any]) -> list[str]:
    """What limits the finding, most important first."""
    told = []
    if experiment.meta("protocol") in ("slide", "spanhol", "kaiko_eva"):
        told.append(
            f"Folders of one case number may be on both sides ({experiment.meta('protocol')} splits by folder)."
        )
    told += _few_cases(experiment) + _few_folds(experiment)
    told += _against_majority(experiment, metrics)
    if experiment.test.duplicated(["file"]).any():
        told.append("Images are tested more than once (seeds or overlapping folds): numbers are means over them, and "
                    "intervals resample cases, not repetitions.")  # fmt: skip
    dropped = _dropped(experiment)
    if dropped:
        told.append(f"{count(dropped, 'image')} left out as duplicates of pixels seen under another name.")
    return told


def _few_cases(experiment: Experiment) -> list[str]:
    column = "label" if predictions.is_binary(experiment.table) else "subtype"
    per_class = experiment.test.groupby(column)["case"].nunique()
    few = ", ".join(f"{name} {cases}" for name, cases in per_class.items() if cases < 10)
    return [f"Few test cases: {few}. Intervals of so few are rough."] if few else []


def _few_folds(experiment: Experiment) -> list[str]:
    settings, n = experiment.settings, experiment.test["fold"].nunique()
    n_folds = 5 if experiment.meta("protocol") == "spanhol" else settings.split.n_folds if settings else n
    if experiment.meta("protocol") == "kaiko_eva" or n >= n_folds:
        return []
    return [f"{n} of {n_folds} folds: other folds may give other scores."]


def _against_majority(experiment: Experiment, metrics: dict[str, Any]) -> list[str]:
    column = "label" if predictions.is_binary(experiment.table) else "subtype"
    shares = experiment.test[column].value_counts(normalize=True)
    return [f"Calling every image {shares.index[0]} would name {percent(shares.iloc[0])} right."]


def _dropped(experiment: Experiment) -> int:
    environment = experiment.sources[0].environment or {}
    return len(environment.get("data", {}).get("dropped_duplicates", []))


def weights(experiment: Experiment) -> str:
    """Which weights the backbone began with, and their hash where the run says."""
    said = (experiment.sources[0].environment or {}).get("weights", {})
    settings = experiment.settings
    name = said.get("name") or (settings.model.weights if settings else "not recorded")
    return f"{name} (SHA-256 {said['sha256'][:12]}…)" if said.get("sha256") else str(name)


def subtype(code: str) -> str:
    """`DC` -> `DC, ductal carcinoma`."""
    folder = names.SUBTYPES[code][0] if code in names.SUBTYPES else ""
    return f"{code}, {folder.replace('_', ' ')}" if folder else code
