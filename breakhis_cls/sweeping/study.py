"""A study that several processes or machines share: Optuna's journal, and locks that tell which of them live."""

from __future__ import annotations

import fcntl
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, TrialState

from ..errors import ConfigError, ModelError
from ..files import sha256_of_values

Direction = Literal["minimize", "maximize"]
NAME = "search"
POLL_S = 0.5
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class SharedStudy:
    """A study as one of its processes, `worker`, sees it."""

    study: optuna.Study
    folder: Path
    worker: str

    def next_trial(self, n_trials: int, distributions: dict[str, BaseDistribution]) -> optuna.Trial | None:
        """A trial to run, or None when `n_trials` are done by all processes together.

        While the last ones are in other hands it waits, since those may die: a dead process's trials are asked again.
        """
        while True:
            with self._alone():
                self._take_over_from_the_dead()
                running = self.trials(TrialState.RUNNING)
                if len(self.done()) + len(running) < n_trials:
                    trial = self.study.ask(distributions)
                    trial.set_user_attr("worker", self.worker)
                    return trial
            if not running:
                return None
            time.sleep(POLL_S)

    def wait_for_twin(self, trial: optuna.Trial) -> None:
        """Equal settings are one run in one folder: who asked first trains, the others then find it finished."""
        while any(
            twin.params == trial.params and twin.number < trial.number for twin in self.trials(TrialState.RUNNING)
        ):
            time.sleep(POLL_S)
            with self._alone():
                self._take_over_from_the_dead()

    def done(self) -> list[FrozenTrial]:
        """Trials that came to an end, pruned ones among them."""
        return self.trials(TrialState.COMPLETE, TrialState.PRUNED)

    def best(self) -> FrozenTrial:
        """The best trial that went through all its runs. ModelError with the last reason if none did."""
        if not self.trials(TrialState.COMPLETE):
            reasons = [trial.user_attrs.get("error", "pruned") for trial in self.done()]
            raise ModelError(f"none of {len(reasons)} trials came through; the last one: {reasons[-1]}")
        return self.study.best_trial

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Those in one of the states, as the journal has them now."""
        return self.study.get_trials(deepcopy=False, states=states)

    def _take_over_from_the_dead(self) -> None:
        """Only while alone: two survivors would otherwise ask the same settings again, each on its own."""
        for trial in self.trials(TrialState.RUNNING):
            worker = trial.user_attrs.get("worker", "")  # none: it died as it asked
            if worker != self.worker and not _lives(self.folder / f"{worker}.lock"):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params, user_attrs={"instead_of": trial.number})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with _locked(self.folder / "study.lock"):
            yield


@contextmanager
def join_study(folder: Path, identity: str, direction: Direction, seed: int) -> Iterator[SharedStudy]:
    """The study in `folder`, begun if it is not there, with this process as one of its workers while open.

    Each process that joins draws from a seed of its own, (seed, how many joined before): one process alone repeats
    itself, several do not, since who asks first is chance. ConfigError if the study was begun with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    journal = str(folder / "journal.log")
    worker = f"worker-{uuid.uuid4().hex[:8]}"
    with _locked(folder / f"{worker}.lock") as mine:
        with _locked(folder / "study.lock"):
            storage = JournalStorage(JournalFileBackend(journal, JournalFileOpenLock(journal)))
            study = optuna.create_study(storage=storage, study_name=NAME, direction=direction, load_if_exists=True)
            n_before = _join(study, identity, folder)
        study.sampler = optuna.samplers.TPESampler(
            seed=int(sha256_of_values(seed, n_before)[:8], 16), constant_liar=True
        )
        study.pruner = optuna.pruners.MedianPruner()
        yield SharedStudy(study, folder, worker)
        mine.unlink()


def _join(study: optuna.Study, identity: str, folder: Path) -> int:
    """How many processes joined before."""
    if study.user_attrs.get("identity", identity) != identity:
        raise ConfigError(
            f"{folder} holds a study of other settings, ranges or metric; give the sweep another name, or remove it"
        )
    n_before = study.user_attrs.get("joined", 0)
    study.set_user_attr("identity", identity)
    study.set_user_attr("joined", n_before + 1)
    return n_before


@contextmanager
def _locked(path: Path) -> Iterator[Path]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the kernel lets go of it however a process dies
        yield path


def _lives(lock_file: Path) -> bool:
    try:
        with lock_file.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
