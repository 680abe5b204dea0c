"""Published results whose source was read (literature.csv), found by protocol, task and magnification."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

TABLE = Path(__file__).with_name("literature.csv")
BY = ["paper", "year", "model", "note", "source"]


@dataclass(frozen=True)
class Published:
    """One model of one paper: metric -> (mean, standard deviation over folds or None), as shares of 1."""

    paper: str
    year: str
    model: str
    note: str
    source: str
    scores: dict[str, tuple[float, float | None]]

    @property
    def cited(self) -> str:
        """`Amato et al. 2023, ResNet152`."""
        return f"{self.paper} {self.year}, {self.model}"


def published_results(protocol: str, task: str, magnification: str) -> list[Published]:
    """What was published under the same protocol, for the same task and magnification, in the file's order.

    `task` is binary, subtype, or subtypes such as `TA MC F DC` in any order; `magnification` 40 100 200 400 or all,
    which stands for one model of all magnifications and their pooled score.
    """
    table = _read()
    same = (table["protocol"] == protocol) & (table["magnification"] == magnification)
    rows = table[same & (table["task"].map(_classes) == _classes(task))]
    return [_gathered(group) for _, group in rows.groupby(BY, sort=False, dropna=False)]


def _gathered(rows: pd.DataFrame) -> Published:
    said = rows.iloc[0][BY]
    scores = {row.metric: (float(str(row.value)), float(str(row.sd)) if row.sd else None) for row in rows.itertuples()}
    return Published(**said.to_dict(), scores=scores)


def _classes(task: str) -> frozenset[str]:
    return frozenset(task.split())


@cache
def _read() -> pd.DataFrame:
    return pd.read_csv(TABLE, dtype=str, keep_default_na=False, comment="#")
