"""Who is behind the numbers: images, slides and cases of each part, and what was left out on the way."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..data import protocols
from . import predictions
from .experiments import Experiment


def describe_parts(experiment: Experiment) -> list[dict[str, Any]]:
    """A row for each part of one run, or for the test part of each fold and of all: part, n_images, n_slides, n_cases,
    share_malignant (of images), cases_by_class and images_by_magnification."""
    column = "label" if predictions.is_binary(experiment.table) else "subtype"
    test = experiment.test.drop_duplicates("file")
    split = experiment.sources[0].path / "split.csv"
    if test["fold"].nunique() == 1 and split.is_file():  # predictions.csv has no train part
        rows = pd.read_csv(split, dtype={"case": str})
        parts = [(part, rows[rows["part"] == part]) for part in ("train", "validation", "test")]
    else:
        folds = experiment.test.groupby("fold")
        parts = [(f"test, fold {fold}", rows.drop_duplicates("file")) for fold, rows in folds if len(folds) > 1]
        parts.append(("test, all folds" if parts else "test", test))
    return [
        {
            "part": part,
            **predictions.count_units(rows),
            "share_malignant": float((rows["label"] == "malignant").mean()) if len(rows) else None,
            "cases_by_class": rows.groupby(column)["case"].nunique().to_dict(),
            "images_by_magnification": rows["magnification"].value_counts().sort_index().to_dict(),
        }
        for part, rows in parts
    ]


def count_flow(experiment: Experiment) -> tuple[list[tuple[str, dict[str, int]]], list[tuple[str, int]]]:
    """Boxes of a flow chart, (title, n_images, n_slides, n_cases), and (reason, images) of what was left out before the
    second box; both empty for a table whose run is not recorded."""
    source = experiment.sources[0]
    data = (source.environment or {}).get("data")
    if not data or source.settings is None:
        return [], []
    broken, dropped = len(data["broken"]), len(data["dropped_duplicates"])
    units = ("n_images", "n_slides", "n_cases")
    used = {unit: data[unit] for unit in units}
    excluded = {"cannot be read": broken, "equal pixels under another name": dropped}
    boxes = []
    if not data["name"].startswith(("synthetic", "own")):
        official = protocols.official_images()
        wanted = official[official["magnification"].isin(source.settings.data.magnifications)]
        boxes.append(("BreakHis", predictions.count_units(official)))
        absent = len(wanted) - data["n_images"] - dropped - broken
        excluded = {"other magnifications": len(official) - len(wanted),
                    "outside the protocol, or not in this copy": absent, **excluded}  # fmt: skip
    else:
        boxes.append(("Images at these magnifications", used | {"n_images": data["n_images"] + dropped + broken}))
    boxes.append(("In the experiment", used))
    boxes += [(row["part"].capitalize(), {unit: row[unit] for unit in units}) for row in describe_parts(experiment)]
    return boxes, [(reason, n) for reason, n in excluded.items() if n]
