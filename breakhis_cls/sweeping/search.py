"""The search for settings: Optuna over ranges, judged on validation alone, by any number of processes at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from .. import config
from ..config import PositiveInt, Section
from ..errors import ConfigError, DataError, ModelError
from ..files import sha256_of_values, write_text

if TYPE_CHECKING:  # every sweep reads the settings below, and need not wait for these
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from ..modeling.run_folder import RunFolder

Number = int | float
Values = dict[str, Any]  # setting, such as head.peak_lr -> its value
LOWER_IS_BETTER = ("log_loss", "brier")


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

    @property
    def ends(self) -> tuple[Any, Any]:
        """The first and the last value."""
        return (self.low, self.high) if self.choices is None else (self.choices[0], self.choices[-1])

    def value(self, drawn: Any) -> Any:
        """What Optuna drew, as the setting takes it; four digits are enough for a person and for a rate."""
        if self.choices is not None:
            return json.loads(drawn)
        return float(f"{drawn:.4g}") if isinstance(drawn, float) else drawn

    def distribution(self) -> BaseDistribution:
        """For Optuna, which wants choices to be plain: they go as JSON."""
        from optuna import distributions

        if self.choices is not None:
            return distributions.CategoricalDistribution([json.dumps(choice) for choice in self.choices])
        low, high = self.ends
        if isinstance(low, int) and isinstance(high, int):
            return distributions.IntDistribution(low, high, log=self.log)
        return distributions.FloatDistribution(low, high, log=self.log)


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


def search(
    name: str,
    space: Search,
    runs_of: Callable[[Values], list[config.Config]],
    study_folder: Path,
    execute: Callable[[config.Config], RunFolder],
) -> Path:
    """Try settings until `space.trials` are done by all processes of the study; returns the config of the best.

    `runs_of` turns values into the runs of one trial, `execute` makes a run; both as in any sweep, so that equal
    settings are trained once and a killed trial's runs are found. Of a run's predictions the validation rows alone
    are looked at. Raises ConfigError where a range does not fit its setting, ModelError if no trial came through.
    """
    base = runs_of({})
    for end in (0, 1):  # a wrong name or bound is told before anything is trained
        runs_of({setting: values.ends[end] for setting, values in space.ranges.items()})
    try:
        from . import study
    except ImportError:
        raise ConfigError(
            "a search needs Optuna; install it with the extra `sweep`: pip install -e '.[sweep]'"
        ) from None
    direction: Literal["minimize", "maximize"] = "minimize" if space.metric in LOWER_IS_BETTER else "maximize"
    distributions = {setting: values.distribution() for setting, values in space.ranges.items()}
    with study.join_study(study_folder, _identity(space, base), direction, space.seed) as shared:
        while (trial := shared.next_trial(space.trials, distributions)) is not None:
            shared.wait_for_twin(trial)
            told = _try(trial, space, runs_of, execute)
            print(
                f"{name}: {len(shared.done())} of {space.trials} trials done; trial {trial.number} {told}", flush=True
            )
        best = shared.best()
        settings = runs_of(_values(best, space))
        write_text(study_folder / "best.yaml", _as_config(name, space, settings, best, shared.done()))
    return study_folder / "best.yaml"


def score(predicted: Path, metric: str) -> float:
    """A metric of the validation rows of a predictions.csv, the only ones read; NaN where they hold one class."""
    from ..evaluation import bootstrap, metrics, predictions

    rows = predictions.read_predictions(predicted, only="validation")
    statistics, cases = metrics.compute_statistics(rows, [metric])
    return bootstrap.statistic_value(statistics[metric], len(cases))


def _try(
    trial: optuna.Trial,
    space: Search,
    runs_of: Callable[[Values], list[config.Config]],
    execute: Callable[[config.Config], RunFolder],
) -> str:
    """Run one trial and tell the study how it ended; returns that in words."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    values = _values(trial, space)
    shown = ", ".join(f"{setting} {json.dumps(value)}" for setting, value in values.items())
    try:
        found = _objective(trial, space.metric, runs_of(values), execute)
    except TrialPruned as reason:
        trial.study.tell(trial, state=TrialState.PRUNED)
        return f"was pruned {reason}: {shown}"
    except ModelError as error:  # training goes astray where a rate is too high; the study is to learn that
        trial.set_user_attr("error", str(error))
        trial.study.tell(trial, state=TrialState.PRUNED)
        return f"failed: {shown}: {error}"
    trial.study.tell(trial, found)
    return f"has {space.metric} {found:.4f}: {shown}"


def _objective(
    trial: optuna.Trial, metric: str, runs: list[config.Config], execute: Callable[[config.Config], RunFolder]
) -> float:
    """Mean over the runs in which the metric is defined."""
    from optuna import TrialPruned

    scores: list[float] = []
    for done, settings in enumerate(runs, 1):
        run = execute(settings)
        found = score(run.folder / "predictions.csv", metric)
        scores += [found] if math.isfinite(found) else []
        if scores and done < len(runs):
            trial.report(fmean(scores), done)
            if trial.should_prune():
                raise TrialPruned(f"after {done} of {len(runs)} runs")
    if not scores:
        raise DataError(f"{metric} is undefined in every validation part, which hold one class; search by log_loss")
    return fmean(scores)


def _values(trial: optuna.Trial | FrozenTrial, space: Search) -> Values:
    return {setting: values.value(trial.params[setting]) for setting, values in space.ranges.items()}


def _identity(space: Search, base: list[config.Config]) -> str:
    """Of all that a study's numbers hang on; more trials, another seed or another place are the same study."""
    places = {"data": {"cache"}, "run": {"dir", "reports"}}
    return sha256_of_values(
        space.model_dump(mode="json", exclude={"trials", "seed"}),
        [one.model_dump(mode="json", exclude=places) for one in base],
    )


def _as_config(name: str, space: Search, runs: list[config.Config], best: FrozenTrial, done: list[FrozenTrial]) -> str:
    """The first run's settings where they differ from the defaults, below what they were chosen by."""
    pruned = sum(trial.state.name == "PRUNED" for trial in done)  # which have a value too: their last report
    chosen = json.dumps(_values(best, space))
    return (
        f"# Found by the search {name}: {chosen}\n"
        f"# Chosen on validation alone: {space.metric} {best.value:.4f}, mean of {len(runs)} runs; "
        f"trial {best.number}, best of {len(done)} ({pruned} pruned).\n"
        "# Test parts were not looked at. But what one fold validates on, another tests: settings chosen over\n"
        "# several folds have seen cases that they are then tested on, so that the test score is a little too high.\n"
    ) + yaml.safe_dump(runs[0].model_dump(mode="json", exclude_defaults=True), sort_keys=False)
