"""Rows of a paper's table: protocol x magnification x task, from any number of runs, each with published results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from .. import names
from ..evaluation import bootstrap, metrics, predictions
from ..evaluation.experiments import Experiment
from ..modeling import run_folder
from . import published, text
from .published import Published

METRICS = ("image_accuracy", "recognition_rate", "balanced_accuracy", "roc_auc")
ALL = "all"
VARIED = ("data.task", "data.magnifications", "split.allow_leaks", "split.fold", "run.seed")  # said elsewhere


@dataclass(frozen=True)
class Row:
    """One experiment at one magnification, or at all of them, and what was published under the same conditions."""

    experiment: Experiment
    task: str
    magnification: str
    variant: str
    scores: dict[str, dict[str, Any]]
    published: list[Published]

    @property
    def protocol(self) -> str:
        """Its name."""
        return self.experiment.meta("protocol")

    @property
    def data(self) -> str:
        """Its name, which tells the full set (`breakhis-...`) from samples and synthetic tissue."""
        return self.experiment.meta("data")

    @property
    def model(self) -> str:
        """What was trained, on which magnifications where they are not the row's own, and by which settings."""
        trained = " ".join(f"{one}X" for one in sorted(self.experiment.test["magnification"].unique()))
        joint = f"one model for {trained}" if self.is_joint else ""
        return "; ".join(part for part in (self.experiment.meta("model"), joint, self.variant) if part)

    @property
    def is_joint(self) -> bool:
        """Whether one model serves several magnifications."""
        return self.experiment.test["magnification"].nunique() > 1

    @property
    def where(self) -> str:
        """`200X`, or `all`."""
        return self.magnification if self.magnification == ALL else f"{self.magnification}X"

    @property
    def sizes(self) -> str:
        """Folds, seeds, images and cases."""
        rows, counts = self.experiment.test, self.scores["image_accuracy"]
        counted = [(rows["fold"].nunique(), "fold"), (rows["seed"].nunique(), "seed"),
                   (counts["n_images"], "image"), (counts["n_cases"], "case")]  # fmt: skip
        return ", ".join(text.count(n, unit) for n, unit in counted)


def table_rows(experiments: list[Experiment], n_resamples: int = bootstrap.N_RESAMPLES) -> list[Row]:
    """The rows, in the order of a paper: task, protocol from the honest to the leaky, magnification."""
    variants = _variants(experiments)
    rows = []
    for experiment, variant in zip(experiments, variants, strict=True):
        task = _task(experiment)
        for magnification, stratum in _strata(experiment.test).items():
            whole = magnification != ALL or set(stratum["magnification"]) == set(names.MAGNIFICATIONS)
            literature = published.published_results(experiment.meta("protocol"), task, magnification) if whole else []
            name = f"magnification-{magnification}" if len(stratum) < len(experiment.test) else "pooled"
            scores = _scores(stratum, name, n_resamples)  # seeded by name: equal to the experiment's own report
            rows.append(Row(experiment, task, magnification, variant, scores, literature))
    return _once(sorted(rows, key=_order))


def over_folds(rows: pd.DataFrame) -> pd.DataFrame:
    """(fold, metric) values; seeds are averaged within a fold, over those in which the metric is defined."""
    found = []
    for (fold, _), piece in rows.groupby(["fold", "seed"], sort=True):
        statistics, cases = metrics.compute_statistics(piece, METRICS)
        found.append(
            {"fold": fold} | {name: bootstrap.statistic_value(statistics[name], len(cases)) for name in METRICS}
        )
    return pd.DataFrame(found).groupby("fold").mean()


def long_table(rows: list[Row]) -> pd.DataFrame:
    """A line for each row, metric and, below it, published value; scores are shares of 1."""
    lines = []
    for row in rows:
        about = {"task": row.task, "protocol": row.protocol, "magnification": row.magnification}
        mine = {"by": "this package", "model": row.model, "data": row.data}
        lines += [about | mine | {"metric": name} | row.scores[name] for name in METRICS]
        for one in row.published:
            said = {"by": f"{one.paper} {one.year}", "model": one.model, "source": one.source, "note": one.note}
            lines += [
                about | said | {"metric": name, "mean": value, "sd": sd} for name, (value, sd) in one.scores.items()
            ]
    return pd.DataFrame(lines)


def _scores(rows: pd.DataFrame, stratum: str, n_resamples: int) -> dict[str, dict[str, Any]]:
    pooled = metrics.compute_stratum(rows, stratum, n_resamples, 0, only=METRICS)
    folds = over_folds(rows)
    return {
        name: {
            "mean": _number(folds[name].mean()), "sd": _number(folds[name].std()),
            "n_folds": int(folds[name].notna().sum()), "n_seeds": int(rows["seed"].nunique()), **pooled[name],
        }
        for name in METRICS
    }  # fmt: skip


def _number(value: float) -> float | None:
    return None if pd.isna(value) else float(value)


def _strata(test: pd.DataFrame) -> dict[str, pd.DataFrame]:
    found = {str(value): rows for value, rows in test.groupby("magnification", sort=True)}
    return found | ({ALL: test} if len(found) > 1 else {})


def _task(experiment: Experiment) -> str:
    classes = predictions.class_names(experiment.table)
    if predictions.is_binary(experiment.table):
        return "binary"
    return "subtype" if set(classes) == set(names.SUBTYPES) else " ".join(classes)


def _variants(experiments: list[Experiment]) -> list[str]:
    """What tells experiments apart beyond protocol, task and magnification: `head.peak_lr 0.001`."""
    flat = [_settings(experiment) for experiment in experiments]
    keys = sorted({key for one in flat for key in one if len({str(each.get(key)) for each in flat}) > 1})
    return [", ".join(f"{key} {one[key]}" for key in keys if key in one) for one in flat]


def _settings(experiment: Experiment) -> dict[str, Any]:
    if experiment.settings is None:
        return {}
    content = experiment.settings.model_dump(mode="json")
    for section, key in run_folder.PATHS:
        del content[section][key]
    flat = {f"{section}.{key}": value for section, each in content.items() if isinstance(each, dict)
            for key, value in each.items()}  # fmt: skip
    return {key: value for key, value in flat.items() if key not in VARIED}


def _order(row: Row) -> tuple:
    protocols = list(text.PROTOCOLS)
    at = protocols.index(row.protocol) if row.protocol in protocols else len(protocols)
    magnifications = [*map(str, names.MAGNIFICATIONS), ALL]
    return (
        row.task != "binary", row.task != "subtype", row.task, at, row.protocol,
        row.is_joint, magnifications.index(row.magnification), row.model,
    )  # fmt: skip


def _once(rows: list[Row]) -> list[Row]:
    """Published results stand below the first row of their conditions alone."""
    first: dict[tuple[str, str, str], int] = {}
    for at, row in enumerate(rows):
        first.setdefault((row.task, row.protocol, row.magnification), at)
    return [row if at in first.values() else replace(row, published=[]) for at, row in enumerate(rows)]
