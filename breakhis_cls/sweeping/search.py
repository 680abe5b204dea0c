"""The search for settings: Optuna over ranges, judged on validation alone, by any number of processes at once."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from filelock import Timeout
from pydantic import Field, model_validator

from .. import config
from ..config import PositiveInt, Section
from ..errors import ConfigError, DataError, ModelError
from ..files import lock, sha256_of_values, write_text

if TYPE_CHECKING:  # every sweep reads the settings below, and only a search imports Optuna
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

    from ..train import TrainedRun

Number = int | float
Values = dict[str, Any]  # setting, such as head.peak_lr -> its value
Expand = Callable[[Values], list[config.Config]]
LOWER_IS_BETTER = ("log_loss", "brier")
NAME = "search"  # of the study in its journal
POLL_S = 0.5


class Range(Section):
    """The values that one setting may have."""

    low: Number | None = None
    """Smallest. Two whole numbers make a range of whole numbers."""
    high: Number | None = None
    """Largest, itself included."""
    log: bool = False
    """Drawn evenly by order of magnitude, as suits learning rates."""
    choices: Annotated[tuple[Any, ...], Field(min_length=2)] | None = None
    """Instead of low and high: these values and no others."""

    @model_validator(mode="after")
    def _has_two_ends_or_choices(self) -> Range:
        if (self.choices is None) == (self.low is None or self.high is None):
            raise ValueError("a range is either `low` and `high` or `choices`")
        if self.low is not None and self.high is not None:
            if self.low >= self.high:
                raise ValueError(f"low {self.low} is not below high {self.high}")
            if self.log and self.low <= 0:
                raise ValueError(f"low {self.low} has no logarithm; with `log` it must be above 0")
        return self


class Search(Section):
    """What is searched for, and where."""

    trials: PositiveInt
    """Settings to try in all, by all processes of the study together."""
    metric: Literal["log_loss", "roc_auc", "balanced_accuracy", "image_accuracy", "brier"] = "log_loss"
    """Of the validation part, averaged over the runs of a trial."""
    ranges: Annotated[dict[str, Range], Field(min_length=1)]
    """Setting, such as head.peak_lr -> the values it may have."""
    seed: config.Seed = 0
    """Of what is tried; each process that joins a study draws from its own seed, derived from this one."""

    def values(self, trial: optuna.Trial | FrozenTrial) -> Values:
        """A trial's settings. Four digits are enough for a person and for a learning rate."""
        values = {setting: trial.params[setting] for setting in self.ranges}
        for setting, value in values.items():
            if isinstance(value, str):  # one of the choices, which are passed to Optuna as JSON
                values[setting] = json.loads(value)
            elif isinstance(value, float):
                values[setting] = float(f"{value:.4g}")
        return values


def search(
    name: str, space: Search, expand: Expand, study_folder: Path, train: Callable[[config.Config], TrainedRun]
) -> Path:
    """Try settings until `space.trials` are done by all processes of the study; returns the config of the best.

    `expand` turns values into the runs of one trial, `train` trains one; both as in any sweep, so that equal settings
    are trained once and a killed trial's runs are found again. Only the validation rows of predictions.csv are read.
    Raises ConfigError where a range does not fit its setting, ModelError if no trial went through all its runs.
    """
    base = expand({})
    # An unknown setting and a bound that it cannot have are reported before anything is trained.
    for end in (0, -1):
        expand({setting: (one.choices or (one.low, one.high))[end] for setting, one in space.ranges.items()})
    try:
        import optuna
    except ImportError:
        raise ConfigError("a search needs Optuna, which is not installed; pip install -e '.[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    # --- what may be tried, in Optuna's terms ---
    distributions: dict[str, BaseDistribution] = {}
    for setting, one in space.ranges.items():
        if one.choices is not None:  # Optuna wants plain values: they are passed as JSON
            choices = [json.dumps(choice) for choice in one.choices]
            distributions[setting] = optuna.distributions.CategoricalDistribution(choices)
        elif isinstance(one.low, int) and isinstance(one.high, int):
            distributions[setting] = optuna.distributions.IntDistribution(one.low, one.high, log=one.log)
        elif one.low is not None and one.high is not None:
            distributions[setting] = optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
    # More trials, another seed or other places are the same study.
    places = "data.cache", "run.dir", "run.reports", "run.save_model"
    identity = sha256_of_values(
        config.settings_without(space, ("trials", "seed")), [config.settings_without(one, places) for one in base]
    )
    direction = "minimize" if space.metric in LOWER_IS_BETTER else "maximize"

    # --- trials, until all processes together have done enough ---
    with join_study(study_folder, identity, direction, space.seed) as shared:
        while (trial := shared.next_trial(space.trials, distributions)) is not None:
            shared.wait_for_twin(trial)
            values = space.values(trial)
            try:
                value = _run_trial(trial, space.metric, expand(values), train)
                shared.study.tell(trial, value)
                outcome = f"has {space.metric} {value:.4f}"
            except (optuna.TrialPruned, ModelError) as error:
                outcome = f"was pruned, {error}"
                # Training diverges where a learning rate is too high; the study learns that as from a pruned trial.
                if isinstance(error, ModelError):
                    trial.set_user_attr("error", str(error))
                    outcome = f"failed, {error}"
                shared.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            shown = ", ".join(f"{setting} {json.dumps(value)}" for setting, value in values.items())
            n_done = f"{len(shared.trials('COMPLETE', 'PRUNED'))} of {space.trials} trials done"
            print(f"{name}: {n_done}; trial {trial.number} {outcome}: {shown}", flush=True)

        done = shared.trials("COMPLETE", "PRUNED")
        if not shared.trials("COMPLETE"):
            reason = done[-1].user_attrs.get("error", "pruned")
            raise ModelError(f"none of {len(done)} trials went through all its runs; the last one: {reason}")
        best, n_pruned = shared.study.best_trial, len(shared.trials("PRUNED"))
        runs = expand(space.values(best))

    # --- the best trial as an ordinary config ---
    content = runs[0].model_dump(mode="json", exclude_defaults=True)
    write_text(
        study_folder / "best.yaml",
        f"# Found by the search {name}: {json.dumps(space.values(best))}\n"
        f"# Chosen on validation alone: {space.metric} {best.value:.4f}, mean of {len(runs)} runs; "
        f"trial {best.number}, best of {len(done)} ({n_pruned} pruned).\n"
        "# Test parts were not looked at. But what one fold validates on, another tests: settings chosen over\n"
        "# several folds have seen cases that they are then tested on, so that the test score is a little too high.\n"
        + yaml.safe_dump(content, sort_keys=False),
    )
    return study_folder / "best.yaml"


def score(predictions_csv: Path, metric: str) -> float:
    """A metric of the validation rows of a predictions.csv, the only ones read; NaN where they hold one class."""
    from ..evaluation import bootstrap, metrics, predictions

    rows = predictions.read_predictions(predictions_csv, only="validation")
    statistics, cases = metrics.compute_statistics(rows, [metric])
    return bootstrap.statistic_value(statistics[metric], len(cases))


def _run_trial(
    trial: optuna.Trial, metric: str, runs: list[config.Config], train: Callable[[config.Config], TrainedRun]
) -> float:
    """Mean over the runs for which the metric is defined. Raises TrialPruned where the trial falls behind."""
    import optuna

    scores: list[float] = []
    for n_done, settings in enumerate(runs, 1):
        value = score(train(settings).folder / "predictions.csv", metric)
        scores += [value] if math.isfinite(value) else []
        if scores and n_done < len(runs):
            trial.report(fmean(scores), n_done)
            if trial.should_prune():
                raise optuna.TrialPruned(f"after {n_done} of {len(runs)} runs")
    if not scores:
        raise DataError(f"{metric} is undefined: every validation part holds one class only; search by log_loss")
    return fmean(scores)


@dataclass(frozen=True)
class SharedStudy:
    """One process's view of a study that several processes, here or on other machines, work on."""

    study: optuna.Study
    folder: Path
    worker: str

    def next_trial(self, n_trials: int, distributions: dict[str, BaseDistribution]) -> optuna.Trial | None:
        """A trial to run, or None when `n_trials` are done by all processes together.

        It waits while other processes run the last ones, since a process may die: its trials are then tried again.
        """
        while True:
            with lock(self.folder / "study.lock"):
                self._requeue_trials_of_dead_workers()
                running = self.trials("RUNNING")
                if len(self.trials("COMPLETE", "PRUNED")) + len(running) < n_trials:
                    trial = self.study.ask(distributions)
                    trial.set_user_attr("worker", self.worker)
                    return trial
            if not running:
                return None
            time.sleep(POLL_S)

    def wait_for_twin(self, trial: optuna.Trial) -> None:
        """Wait while another process tries equal settings: they are one run in one folder, found finished later."""
        while any(twin.params == trial.params and twin.number < trial.number for twin in self.trials("RUNNING")):
            time.sleep(POLL_S)
            with lock(self.folder / "study.lock"):
                self._requeue_trials_of_dead_workers()

    def trials(self, *states: str) -> list[FrozenTrial]:
        """Those in one of the states, such as COMPLETE, as the journal has them now."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if trial.state.name in states]

    def _requeue_trials_of_dead_workers(self) -> None:
        """Only under the study's lock: two processes would otherwise try the same settings again."""
        from optuna.trial import TrialState

        for trial in self.trials("RUNNING"):
            worker = trial.user_attrs.get("worker", "dead")  # without one its process died while it asked
            try:
                # A process holds its lock while it lives: the kernel frees it however the process dies.
                with lock(self.folder / f"{worker}.lock", 0):
                    pass
            except Timeout:
                continue
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial(trial.params, user_attrs={"instead_of": trial.number})


@contextmanager
def join_study(
    folder: Path, identity: str, direction: Literal["minimize", "maximize"], seed: int
) -> Iterator[SharedStudy]:
    """The study in `folder`, created if it is not there, with this process as one of its workers while open.

    Each process that joins draws from the seed (seed, number of processes that joined before): one process alone
    repeats itself; several do not, since their order is chance. ConfigError if the study has other settings.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # Files alone, no server: machines need to share no more than the folder.
    journal, worker = str(folder / "journal.log"), f"worker-{uuid.uuid4().hex[:8]}"
    with lock(folder / f"{worker}.lock"):
        with lock(folder / "study.lock"):
            storage = optuna.storages.JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal)))
            study = optuna.create_study(storage=storage, study_name=NAME, direction=direction, load_if_exists=True)
            if study.user_attrs.get("identity", identity) != identity:
                advice = "give the sweep another name, or remove the folder"
                raise ConfigError(f"{folder} holds a study of other settings, ranges or metric; {advice}")
            n_before = study.user_attrs.get("joined", 0)
            study.set_user_attr("identity", identity)
            study.set_user_attr("joined", n_before + 1)
        sampler_seed = int(sha256_of_values(seed, n_before)[:8], 16)
        # constant_liar: settings that another process is trying count as bad, so that two do not try the same.
        study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=True)
        study.pruner = optuna.pruners.MedianPruner()
        yield SharedStudy(study, folder, worker)
    (folder / f"{worker}.lock").unlink(missing_ok=True)
