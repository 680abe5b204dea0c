"""What is evaluated: run folders and tables, grouped into experiments (one model, one protocol, one data set)."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from .. import config
from ..data import protocols
from ..errors import DataError, list_first
from ..files import sha256_of_values
from . import predictions

KEY = ["file", "fold", "seed"]  # an experiment has one row for each
UNITS = ("n_images", "n_slides", "n_cases")


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
        """The run folder's name, or the table's without its suffix; where that is `predictions`, also its folder's."""
        if self.path.is_dir() or self.path.stem != "predictions":
            return self.path.name if self.path.is_dir() else self.path.stem
        return f"{self.path.resolve().parent.name}-predictions"


@dataclass(frozen=True)
class Experiment:
    """Sources that differ in fold and seed alone, and their rows together."""

    name: str
    sources: tuple[Source, ...]
    table: pd.DataFrame

    @cached_property
    def test(self) -> pd.DataFrame:
        """Rows of part test."""
        return predictions.select_part(self.table, "test")

    @property
    def settings(self) -> config.Config | None:
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
    for group in groups.values():
        check_agreement([source.table for source in group], [source.name for source in group])

    # `binary_200x-0-0-1234abcd` of one run, `protocol_case-5-folds`, or `leak_penalty-image` where settings differ.
    outside = ("data.root", "data.cache", "split.fold", "split.allow_leaks", "run")
    first = [group[0].settings for group in groups.values()]
    flat, found = [flat_settings(one, outside) | {"name": one.name} if one else {} for one in first], []
    for group, mine in zip(groups.values(), flat, strict=True):
        n_folds = len({fold for source in group for fold in source.table["fold"]})
        words = [f"{n_folds}-folds" if n_folds > 1 else f"{len(group)}-runs"] if len(group) > 1 else []
        same = [one for one in flat if one.get("name") == mine.get("name")] if len(group) > 1 else []
        differing = {key: value for key, value in mine.items() if any(other[key] != value for other in same)}
        # A word says what it is of (`image`, `40-100`), any other value needs its setting (`C-0.1`).
        words = [
            "-".join(map(str, value)) if isinstance(value, list)
            else value if isinstance(value, str) else f"{key.rpartition('.')[2]}-{value}"
            for key, value in differing.items()
        ] or words  # fmt: skip
        found.append("-".join([str(mine.get("name") if len(group) > 1 and mine else group[0].name), *words]))
    names = [name.replace("/", "-") for name in found]
    if len(set(names)) < len(names):
        names = [f"{name}-{at}" for at, name in enumerate(names, 1)]
    return [
        Experiment(name, tuple(group), pd.concat([source.table for source in group], ignore_index=True))
        for name, group in zip(names, groups.values(), strict=True)
    ]


def flat_settings(settings: config.Config, outside: Iterable[str]) -> dict[str, Any]:
    """Settings by their dotted names, without those `outside`."""
    nested = config.settings_without(settings, outside)
    sections = [(section, values) for section, values in nested.items() if isinstance(values, dict)]
    return {f"{section}.{key}": value for section, values in sections for key, value in values.items()}


def check_agreement(tables: Sequence[pd.DataFrame], sources: Sequence[str]) -> None:
    """DataError where tables disagree on label, case, slide, subtype or magnification of an image, or on a slide."""
    rows = pd.concat([one.assign(source=name) for one, name in zip(tables, sources, strict=True)], ignore_index=True)
    for what, groups in (("image", predictions.image_keys(rows)), ("slide", rows["slide"])):
        columns = predictions.NAMED if what == "image" else ("case", "label", "subtype")
        differs = predictions.differs_within(rows, groups, columns)
        if lines := [
            f"{name}: {column} " + ", ".join(f"{row[column]} in {row['source']}" for row in values.to_dict("records"))
            for name, pair in rows[differs].groupby(groups[differs], sort=False)
            for column in columns
            if len(values := pair.drop_duplicates(column)) > 1
        ]:
            fault = f"the tables disagree on {groups[differs].nunique():,} {what}s; correct one of them:"
            raise DataError(fault + list_first(lines))


def split_contradictions(experiment: Experiment) -> list[str]:
    """What the rows say against the split that the table claims, a sentence each."""
    found, protocol = [], experiment.meta("protocol")
    table = experiment.table.assign(image=predictions.image_keys(experiment.table))
    is_test = table["part"] == "test"

    # --- no slide or case on both sides: seen are the rows of other parts, and what another fold tests ---
    by_slide = dict.fromkeys(("slide", "spanhol", "kaiko_eva", "thunder"), "slide")
    if unit := (by_slide | {"case": "case", "nanopath": "case"}).get(protocol):
        n_leaks = 0
        for (seed, _), fold in table.groupby(["seed", "fold"]):
            test = fold[is_test[fold.index]]
            elsewhere = table[is_test & (table["seed"] == seed) & ~table["image"].isin(test["image"])]
            n_leaks += test[unit].isin({*fold.drop(test.index)[unit], *elsewhere[unit]}).sum()
        if n_leaks:
            shared = f"{n_leaks:,} of {is_test.sum():,} test images share their {unit} with images that were seen"
            found.append(f"The table says protocol {protocol}, but {shared}.")

    # --- published folds; rows of part validation may be out of fold, and so of images that train ---
    if protocol in protocols.PUBLISHED:
        parts = pd.concat([protocols.assign_parts(rows, protocol, fold) for fold, rows in table.groupby("fold")])
        if n_wrong := ((parts.reindex(table.index) == "test") != is_test).sum():
            where = f"protocol {protocol} (folds count from 0)"
            found.append(f"{n_wrong:,} of {len(table):,} rows are in another part than {where} says.")
    return found


# --- who is behind the numbers: images, slides and cases of each part, and what was left out on the way ---


def describe_parts(experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each part of one run, or for the test part of each fold and of all: part, n_images, n_slides, n_cases,
    share_malignant (of images), cases_by_class and images_by_magnification."""
    column = "label" if predictions.is_binary(experiment.table) else "subtype"
    folds = experiment.test.groupby("fold")
    split = experiment.sources[0].path / "split.csv"
    if len(folds) == 1 and split.is_file():  # predictions.csv has no train part
        rows = pd.read_csv(split, dtype={"case": str})
        parts = {part: rows[rows["part"] == part] for part in ("train", "validation", "test")}
    elif len(folds) == 1:
        parts = {"test": experiment.test}
    else:
        parts = {f"test, fold {fold}": rows for fold, rows in folds} | {"test, all folds": experiment.test}
    return [
        {
            "part": part,
            **predictions.count_units(rows),
            "share_malignant": float((rows["label"] == "malignant").mean()) if len(rows) else None,
            "cases_by_class": rows.groupby(column)["case"].nunique().to_dict(),
            "images_by_magnification": rows["magnification"].value_counts().sort_index().to_dict(),
        }
        for part, rows in ((part, rows.drop_duplicates("file")) for part, rows in parts.items())
    ]


def count_flow(experiment: Experiment) -> tuple[list[tuple[str, dict[str, int]]], list[tuple[str, int]]]:
    """Boxes of a flow chart, (title, n_images, n_slides, n_cases), and (reason, images) of what was left out before the
    second box; both empty for a table whose run is not recorded."""
    source = experiment.sources[0]
    data = (source.environment or {}).get("data")
    if not data or source.settings is None:
        return [], []
    used, n_broken, n_equal = {unit: data[unit] for unit in UNITS}, len(data["broken"]), len(data["dropped_duplicates"])
    n_read, excluded = data["n_images"] + n_broken + n_equal, {}
    if data["name"].startswith(("synthetic", "own")):
        boxes = [("Images at these magnifications", used | {"n_images": n_read})]
    else:
        official = protocols.official_images()
        n_wanted = official["magnification"].isin(source.settings.data.magnifications).sum()
        boxes = [("BreakHis", predictions.count_units(official))]
        excluded = {"other magnifications": len(official) - n_wanted,
                    "outside the protocol, or not in this copy": n_wanted - n_read}  # fmt: skip
    excluded |= {"cannot be read": n_broken, "equal pixels under another name": n_equal}
    boxes.append(("In the experiment", used))
    boxes += [(row["part"].capitalize(), {unit: row[unit] for unit in UNITS}) for row in describe_parts(experiment)]
    return boxes, [(reason, n) for reason, n in excluded.items() if n]
