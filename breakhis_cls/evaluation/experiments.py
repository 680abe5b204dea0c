"""What is evaluated: run folders and tables, gathered into experiments (one model, one protocol, one data
set)."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .. import config
from ..errors import DataError
from ..files import sha256_of_values
from ..modeling import run_folder
from . import predictions

IDENTITY = ["protocol", "data", "model"]
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
    def validation(self) -> pd.DataFrame:
        """Rows of part validation; may be empty."""
        return predictions.select_part(self.table, "validation")

    @property
    def settings(self) -> config.Config | None:
        """Of the first run."""
        return self.sources[0].settings

    def meta(self, column: str) -> str:
        """What the rows say in one of `protocol`, `data`, `model`."""
        return ", ".join(self.table[column].unique())


def read_source(path: Path) -> Source:
    """A run's folder, of which all but predictions.csv may be missing, or a table of predictions."""
    if not path.is_dir():
        return Source(path, predictions.read_predictions(path))
    if not (path / "predictions.csv").is_file():
        raise DataError(f"{path} holds no predictions.csv; finish the run with the same train command")
    settings = path / "config.yaml"
    return Source(
        path,
        predictions.read_predictions(path / "predictions.csv"),
        config.load_config(settings) if settings.is_file() else None,
        _json(path / "environment.json"),
        _history(path / "history.csv"),
    )


def group_experiments(sources: list[Source]) -> list[Experiment]:
    """Sources of one experiment together, in the order given; a table that holds several is cut apart."""
    groups: dict[str, list[Source]] = {}
    for source in sources:
        for said, rows in source.table.groupby(IDENTITY, sort=False):
            piece = Source(source.path, rows, source.settings, source.environment, source.history)
            _add(
                groups, sha256_of_values(*said, list(predictions.class_names(rows)), _settings_but_fold(source)), piece
            )
    return _distinct([_experiment(group) for group in groups.values()])


def _distinct(found: list[Experiment]) -> list[Experiment]:
    """Names that differ: by the parent folder where tables are all called predictions.csv, else by number."""
    names = [one.name for one in found]
    parents = [f"{one.sources[0].path.resolve().parent.name}-{one.name}" for one in found]
    if len(set(names)) < len(names) == len(set(parents)):
        names = parents
    elif len(set(names)) < len(names):
        names = [f"{name}-{at}" for at, name in enumerate(names, 1)]
    return [replace(one, name=name) for one, name in zip(found, names, strict=True)]


def _add(groups: dict[str, list[Source]], key: str, piece: Source) -> None:
    """Where the group holds one of the rows already, the piece is another experiment, not another fold."""
    while key in groups and _overlap(groups[key], piece):
        key += "+"
    groups.setdefault(key, []).append(piece)


def _overlap(group: list[Source], piece: Source) -> bool:
    rows = pd.concat([source.table[KEY] for source in group])
    return bool(pd.concat([rows, piece.table[KEY]]).duplicated().any())


def _settings_but_fold(source: Source) -> dict[str, Any] | None:
    if source.settings is None:
        return None
    content = source.settings.model_dump(mode="json")
    for section, key in (("split", "fold"), *run_folder.PATHS):
        del content[section][key]
    del content["run"]
    return content


def _experiment(group: list[Source]) -> Experiment:
    table = pd.concat([source.table for source in group], ignore_index=True)
    first = group[0]
    if len(group) == 1:
        return Experiment(first.name, tuple(group), table)
    stem = first.settings.name if first.settings else first.name
    return Experiment(f"{stem}-{len(group)}-runs", tuple(group), table)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None


def _history(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from None
