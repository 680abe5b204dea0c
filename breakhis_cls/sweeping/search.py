"""The search for settings: Optuna over ranges, judged on validation alone, by any number of processes at once."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from .. import config
from ..config import PositiveInt, Section
from ..errors import ConfigError, DataError, ModelError, RunInUseError
from ..files import lock, sha256_of_values, write_text

if TYPE_CHECKING:  # every sweep reads the settings below, and only a search imports Optuna
    import optuna
    from optuna.trial import FrozenTrial

    from ..train import TrainedRun

Values = dict[str, Any]  # setting, such as head.peak_lr -> its value


class Range(Section):
    """The values that one setting may have: from `low` to `high`, whole numbers between two of these, with `log` drawn
    evenly by order of magnitude, as suits learning rates; or `choices` and no others."""

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    choices: Annotated[tuple[Any, ...], Field(min_length=2)] | None = None

    @model_validator(mode="after")
    def _has_two_ends_or_choices(self) -> Self:
        above = 0 if self.log else -math.inf
        has_ends = self.low is not None and self.high is not None and above < self.low < self.high
        if has_ends == (self.choices is not None):
            raise ValueError("a range is either `choices`, or `low` and a higher `high`, which with `log` are above 0")
        return self


class Search(Section):
    """What is searched for, and where."""

    trials: PositiveInt  # settings to try in all, by all processes of the study together
    # Of the validation part, averaged over the runs of a trial.
    metric: Literal["log_loss", "roc_auc", "balanced_accuracy", "image_accuracy", "brier"] = "log_loss"
    ranges: Annotated[dict[str, Range], Field(min_length=1)]  # setting, such as head.peak_lr -> its values
    seed: config.Seed = 0  # of what is tried

    def suggest(self, trial: "optuna.Trial | FrozenTrial") -> Values:
        """A trial's settings. Four digits are enough for a person and for a learning rate."""
        values: Values = {}
        for setting, one in self.ranges.items():
            if one.choices is not None:  # Optuna wants plain values: they are passed as JSON
                choices = [json.dumps(choice) for choice in one.choices]
                values[setting] = json.loads(trial.suggest_categorical(setting, choices))
            elif isinstance(one.low, int) and isinstance(one.high, int):
                values[setting] = trial.suggest_int(setting, one.low, one.high, log=one.log)
            elif one.low is not None and one.high is not None:
                values[setting] = float(f"{trial.suggest_float(setting, one.low, one.high, log=one.log):.4g}")
        return values


def search(
    name: str, space: Search, expand: Callable[[Values], list[config.Config]], study_folder: Path,
    train: "Callable[[config.Config], TrainedRun]",
) -> Path:  # fmt: skip
    """Try settings until `space.trials` are done by all processes of the study; returns the config of the best.
    `expand` turns values into the runs of one trial, `train` trains one; both as in any sweep, so that equal settings
    are trained once and a killed trial's runs are found again. Only the validation rows of predictions.csv are read.
    Raises ConfigError where a range does not fit its setting, ModelError if no trial went through all its runs."""
    # An unknown setting and a bound that it cannot have are reported before anything is trained.
    for end in (0, -1):
        expand({setting: (one.choices or (one.low, one.high))[end] for setting, one in space.ranges.items()})
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs Optuna, which is not installed; pip install -e '.[sweep]'") from None
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what a trial comes to is printed below

    # --- the study: files alone, so that processes on several machines can share it by its folder ---
    # More trials, another seed or other places are the same study; other settings, ranges or metric another one.
    places = "data.cache", "run.dir", "run.reports", "run.save_model"
    settings = [config.settings_without(one, places) for one in expand({})]
    identity = sha256_of_values(config.settings_without(space, ("trials", "seed")), settings)
    study_folder.mkdir(parents=True, exist_ok=True)
    journal = str(study_folder / "journal.log")
    storage = optuna.storages.JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal)))
    direction = "minimize" if space.metric in ("log_loss", "brier") else "maximize"
    with lock(study_folder / "study.lock"):  # else two that start at once would draw the same settings
        study = optuna.create_study(storage=storage, direction=direction, study_name=identity, load_if_exists=True)
        n_joined = study.user_attrs.get("joined", 0)
        study.set_user_attr("joined", n_joined + 1)
    # One process alone repeats itself; several draw from seeds of their own, and never what another is trying.
    sampler_seed = int(sha256_of_values(space.seed, n_joined)[:8], 16)
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)

    # --- trials, until all processes together have done enough ---
    def objective(trial: optuna.Trial) -> float:
        scores: list[float] = []  # of the runs for which the metric is defined
        runs = expand(space.suggest(trial))
        for n_done, settings in enumerate(runs, 1):
            try:
                value = score(train(settings).folder / "predictions.csv", space.metric)
            except ModelError as error:
                # Training diverges where a learning rate is too high; the study learns that as from a pruned trial.
                trial.set_user_attr("error", str(error))
                raise optuna.TrialPruned from None
            except RunInUseError:  # another process tries equal settings: leave them to it
                time.sleep(0.5)
                raise
            scores += [value] if math.isfinite(value) else []
            if scores and n_done < len(runs):
                trial.report(fmean(scores), n_done)
                if trial.should_prune():
                    raise optuna.TrialPruned
        if not scores:
            raise DataError(f"{space.metric} is undefined: every validation part holds one class; search by log_loss")
        return fmean(scores)

    def done() -> "list[FrozenTrial]":
        return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def show(_: optuna.Study, trial: "FrozenTrial") -> None:
        if trial.state != TrialState.FAIL:
            pruned = trial.user_attrs.get("error", f"pruned after {len(trial.intermediate_values)} runs")
            outcome = pruned if trial.value is None else f"{space.metric} {trial.value:.4f}"
            shown = ", ".join(f"{setting} {json.dumps(value)}" for setting, value in space.suggest(trial).items())
            n_done = f"{len(done())} of {space.trials} trials done"
            print(f"{name}: {n_done}; trial {trial.number}, {shown}: {outcome}", flush=True)
        if len(done()) >= space.trials:
            study.stop()

    if len(done()) < space.trials:
        study.optimize(objective, callbacks=[show], catch=(RunInUseError,))
    n_pruned = sum(trial.state == TrialState.PRUNED for trial in done())
    if n_pruned == len(done()):
        reason = done()[-1].user_attrs.get("error", "pruned")
        raise ModelError(f"none of {n_pruned} trials went through all its runs; the last one: {reason}")

    # --- the best trial as an ordinary config ---
    best = study.best_trial
    runs = expand(space.suggest(best))
    write_text(
        study_folder / "best.yaml",
        f"# Found by the search {name}: {json.dumps(space.suggest(best))}\n"
        f"# Chosen on validation alone: {space.metric} {best.value:.4f}, mean of {len(runs)} runs; "
        f"trial {best.number}, best of {len(done())} ({n_pruned} pruned).\n"
        "# Test parts were not looked at. But what one fold validates on, another tests: settings chosen over\n"
        "# several folds have seen cases that they are then tested on, so that the test score is a little too high.\n"
        + yaml.safe_dump(runs[0].model_dump(mode="json", exclude_defaults=True), sort_keys=False),
    )
    return study_folder / "best.yaml"


def score(predictions_csv: Path, metric: str) -> float:
    """A metric of the validation rows of a predictions.csv, the only ones read; NaN where they hold one class."""
    from ..evaluation import metrics, predictions

    return metrics.compute_values(predictions.read_predictions(predictions_csv, only="validation"), [metric])[metric]
