"""What is evaluated: run folders and tables, grouped into experiments (one model, one protocol, one data set)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .. import config
from ..data import protocols
from ..errors import DataError, list_first
from ..files import sha256_of_values
from . import predictions

KEY = ["file", "fold", "seed"]  # an experiment has one row for each


@dataclass(frozen=True)
class Source:
    """One run folder, or one table; of a table only `path` and `table` are known."""

    path: Path
    table: pd.DataFrame
    settings: config.Config | None = None
    environment: dict[str, Any] | None = None
    history: pd.DataFrame | None = None

    @property
    def name(self) -> str:
        """The run folder's name, or the table's without its suffix."""
        return self.path.name if self.path.is_dir() else self.path.stem


@dataclass(frozen=True)
class Experiment:
    """Sources that differ in fold and seed alone, and their rows together."""

    name: str
    sources: tuple[Source, ...]
    table: pd.DataFrame

    @property
    def test(self) -> pd.DataFrame:
        """Rows of part test."""
        return predictions.select_part(self.table, "test")

    @property
    def settings(self) -> config.Config | None:
        """Of the first run."""
        return self.sources[0].settings

    def meta(self, column: str) -> str:
        """The values of one of `protocol`, `data`, `model`, joined by commas."""
        return ", ".join(self.table[column].unique())


def read_source(path: Path) -> Source:
    """A run's folder, of which all but predictions.csv may be missing, or a table of predictions."""
    if not path.is_dir():
        return Source(path, predictions.read_predictions(path))
    settings, environment, history = (path / name for name in ("config.yaml", "environment.json", "history.csv"))
    if not (path / "predictions.csv").is_file():
        raise DataError(f"{path} has no predictions.csv; finish the run with the same train command")
    # Another framework's run folder may hold predictions.csv alone; a run of ours holds all four.
    table = predictions.read_predictions(path / "predictions.csv")
    loaded = config.load_config(settings) if settings.is_file() else None
    try:
        described = json.loads(environment.read_text(encoding="utf-8")) if environment.is_file() else {}
        epochs = pd.read_csv(history) if history.is_file() else None
    except ValueError as error:  # the base of JSON's and pandas' errors
        raise DataError(f"{environment} or {history.name} cannot be read: {' '.join(str(error).split())}") from None
    return Source(path, table, loaded, described, epochs)


def group_experiments(sources: list[Source]) -> list[Experiment]:
    """Sources of one experiment together, in the order given; a table that holds several is split."""
    groups: dict[str, list[Source]] = {}
    seen: dict[str, list[Any]] = {}  # KEY of the rows of each
    for source in sources:
        # Fold, seed and places do not make another experiment; the config's name does.
        settings = source.settings and config.settings_without(source.settings, ("split.fold", "run", *config.PLACES))
        same = [source.settings and source.settings.name, settings]
        for identity, rows in source.table.groupby(predictions.IDENTITY, sort=False):
            key = sha256_of_values(identity, predictions.class_names(rows), same)
            # The same row again is another experiment (a repeated run, a copy), not another fold or seed.
            index = pd.MultiIndex.from_frame(rows.assign(file=predictions.image_keys(rows))[KEY])
            while index.isin(seen.get(key, [])).any():
                key += "+"
            seen[key] = [*seen.get(key, []), *index]
            groups.setdefault(key, []).append(replace(source, table=rows))

    experiments = []
    for group, name in zip(groups.values(), _name_groups([*groups.values()]), strict=True):
        table = pd.concat([source.table for source in group], ignore_index=True)
        check_agreement([source.table for source in group], [source.name for source in group])
        experiments.append(Experiment(name, tuple(group), table))

    # Names that differ: by the parent folder where all tables are called predictions.csv, else by number.
    names = [one.name for one in experiments]
    if len(set(names)) < len(names):
        parents = [f"{one.sources[0].path.resolve().parent.name}-{one.name}" for one in experiments]
        numbered = [f"{name}-{at}" for at, name in enumerate(names, 1)]
        names = parents if len(set(parents)) == len(names) else numbered
    return [replace(one, name=name) for one, name in zip(experiments, names, strict=True)]


def _name_groups(groups: list[list[Source]]) -> list[str]:
    """`binary_200x-0-0-1234abcd` of one run, `protocol_case-5-folds`, or `leak_penalty-image` where settings differ."""
    found = []
    settings = [group[0].settings for group in groups]
    for group, mine in zip(groups, settings, strict=True):
        if len(group) == 1 or mine is None:
            found.append(group[0].name + (f"-{len(group)}-runs" if len(group) > 1 else ""))
            continue
        same = [_flat_settings(one) for one in settings if one is not None and one.name == mine.name]
        words = []
        for name, value in sorted(_flat_settings(mine).items(), key=lambda item: item[0] == "data.magnifications"):
            if any(other[name] != value for other in same):
                key, values = name.rpartition(".")[2], value if isinstance(value, list) else [value]
                unit = "X" if key == "magnifications" else ""
                shown = "-".join(f"{one}{unit}" for one in values)
                words.append(shown if isinstance(value, (str, list)) else f"{key}-{shown}")  # C-0.1
        folds = {fold for source in group for fold in source.table["fold"]}
        n = f"{len(folds)}-folds" if len(folds) > 1 else f"{len(group)}-seeds"
        found.append("-".join([mine.name, *(words or [n])]).replace("/", "-"))
    return found


def _flat_settings(settings: config.Config) -> dict[str, Any]:
    nested = config.settings_without(
        settings, ("name", "data.root", "data.cache", "split.fold", "split.allow_leaks", "run")
    )
    return {f"{section}.{key}": value for section, values in nested.items() for key, value in values.items()}


def check_agreement(tables: Sequence[pd.DataFrame], sources: Sequence[str]) -> None:
    """DataError where tables disagree on label, case, slide, subtype or magnification of an image, or on a slide."""
    named = [table.assign(source=source) for table, source in zip(tables, sources, strict=True)]
    rows = pd.concat(named, ignore_index=True)
    for what, groups in (("image", predictions.image_keys(rows)), ("slide", rows["slide"])):
        columns = predictions.NAMED if what == "image" else ("case", "label", "subtype")
        differs = predictions.differs_within(rows, groups, columns)
        lines = [
            f"{name}: {column} " + ", ".join(f"{row[column]} in {row['source']}" for row in values.to_dict("records"))
            for name, pair in rows[differs].groupby(groups[differs], sort=False)
            for column in columns
            if len(values := pair.drop_duplicates(column)) > 1
        ]
        if lines:
            fault = f"the tables disagree on {groups[differs].nunique():,} {what}s; correct one of them:"
            raise DataError(fault + list_first(lines))


def split_contradictions(experiment: Experiment) -> list[str]:
    """What the rows say against the split that the table claims, a sentence each."""
    found, protocol = [], experiment.meta("protocol")
    table = experiment.table.assign(image=predictions.image_keys(experiment.table))
    is_test = table["part"] == "test"

    # --- no slide or case on both sides: seen are the rows of other parts, and what another fold tests ---
    by_case, by_slide = ("case", "nanopath"), ("slide", "spanhol", "kaiko_eva", "thunder")
    if unit := "case" if protocol in by_case else "slide" if protocol in by_slide else None:
        n_leaks = 0
        for (seed, _), fold in table.groupby(["seed", "fold"]):
            tested = table[is_test & (table["seed"] == seed)]
            test, others = fold[fold["part"] == "test"], fold[fold["part"] != "test"]
            seen = {*others[unit], *tested.loc[~tested["image"].isin(test["image"]), unit]}
            n_leaks += test[unit].isin(seen).sum()
        if n_leaks:
            shared = f"{n_leaks:,} of {is_test.sum():,} test images share their {unit} with images that were seen"
            found.append(f"The table says protocol {protocol}, but {shared}.")

    # --- published folds; rows of part validation may be out of fold, and so of images that train ---
    if protocol in protocols.PUBLISHED:
        parts = pd.concat([protocols.assign_parts(rows, protocol, fold) for fold, rows in table.groupby("fold")])
        faults = (parts.reindex(table.index) == "test") != is_test
        if faults.any():
            where = f"protocol {protocol} (folds count from 0)"
            found.append(f"{faults.sum():,} of {len(table):,} rows are in another part than {where} says.")
    return found
