"""The search for settings: Optuna over ranges, judged on validation alone, by any number of processes at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..config import PositiveInt, Section

Number = int | float


class Range(Section):
    """The values that one setting may take."""

    low: Number | None = None
    """Smallest. Two whole numbers make a range of whole numbers."""
    high: Number | None = None
    """Largest, itself included."""
    log: bool = False
    """Drawn evenly by order of magnitude, as suits learning rates."""
    choices: Annotated[tuple[Any, ...], Field(min_length=2)] | None = None
    """Instead of low and high: these values and no others."""

    @model_validator(mode="after")
    def _is_one_of_two_kinds(self) -> Range:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("a range is either `low` and `high` or `choices`")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low {self.low} is not below high {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"low {self.low} has no logarithm; with `log` it must be above 0")
        return self


class Search(Section):
    """What is sought, and where."""

    trials: PositiveInt
    """Settings to try in all, by all processes of the study together."""
    metric: Literal["log_loss", "roc_auc", "balanced_accuracy", "image_accuracy", "brier"] = "log_loss"
    """Of the validation part, averaged over the runs of a trial."""
    ranges: Annotated[dict[str, Range], Field(min_length=1)]
    """Setting, such as head.peak_lr -> the values it may take."""
    seed: int = 0
    """Of what is tried; each process that joins a study draws from a seed of its own beside it."""
