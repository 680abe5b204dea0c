"""A run's folder: its name, its lock, and the files it leaves. One experiment has one name on every machine."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import config
from ..errors import RunError
from ..files import atomic_path, sha256_of_values, write_json, write_text

if TYPE_CHECKING:
    from ..data.dataset import Dataset

PHASES = ("head", "tune")  # in order; each has a folder below the run's
PATHS = (
    ("data", "root"),
    ("data", "cache"),
    ("run", "dir"),
    ("run", "reports"),
    ("model", "weights"),
    ("split", "protocol"),
)


@dataclass(frozen=True)
class RunFolder:
    """One model trained under one resolved config."""

    folder: Path
    settings: config.Config

    @property
    def finished(self) -> bool:
        """metrics.json is written last."""
        return (self.folder / "metrics.json").is_file()

    @property
    def report(self) -> Path:
        """Where the run's report lies."""
        return self.settings.run.reports / self.folder.name

    @property
    def history(self) -> pd.DataFrame:
        """Rows of history.csv; of a run at work, of the epochs that are safe so far. Empty before the first."""
        if (self.folder / "history.csv").is_file():
            return pd.read_csv(self.folder / "history.csv")
        rows = [row for phase in PHASES for row in self._history_of(phase)]
        return pd.DataFrame(rows)

    def _history_of(self, phase: str) -> list[dict[str, Any]]:
        found: list[list[dict[str, Any]]] = [[]]
        for path in (self.folder / phase).glob("epoch-*/state.json"):
            with suppress(OSError):  # the run may replace it between the look and the read
                found.append(json.loads(path.read_text(encoding="utf-8"))["history"])
        return max(found, key=len)

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """A CSV of the run; floats keep all their digits, so that equal runs give equal bytes."""
        with atomic_path(self.folder / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """A JSON file of the run."""
        write_json(self.folder / name, content)

    def write_predictions(self, material: Dataset, probabilities: np.ndarray, model: str) -> None:
        """predictions.csv of validation and test rows; probabilities (n, n_classes), raw."""
        meta = {"protocol": self.settings.split.protocol, "data": material.name, "model": model}
        table = material.split[material.in_part("validation", "test")].assign(**meta, seed=self.settings.run.seed)
        for at, name in enumerate(material.classes):
            table[f"p_{name}"] = probabilities[:, at].astype(np.float64)
        self.write_table("predictions.csv", table)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Metrics last: their file says that the run is finished. Then drop what only an unfinished run needs."""
        self.write_json("metrics.json", metrics)
        for leftover in [self.folder / "outputs", *self.folder.glob("*/epoch-*")]:
            shutil.rmtree(leftover, ignore_errors=True)


def run_name(settings: config.Config, data_id: str, weights_id: str, split: pd.DataFrame) -> str:
    """`<config name>-<fold>-<seed>-<8 hex>`: the hex stands for all that moves the result, not for paths."""
    parts = split[["file", "part"]].to_numpy().tolist()
    hexes = sha256_of_values(
        config.settings_without(settings, config.PLACES), Path(settings.split.protocol).name, data_id, weights_id, parts
    )[:8]
    return f"{settings.name}-{settings.split.fold}-{settings.run.seed}-{hexes}"


@contextmanager
def open_run(settings: config.Config, name: str) -> Iterator[RunFolder]:
    """The run's folder, made where it is not there, and ours alone while open. RunError if another process has it."""
    run = RunFolder(settings.run.dir / name, settings)
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        lock = (run.folder / ".lock").open("a+")
    except OSError as error:
        raise RunError(f"{run.folder} cannot be written ({error.strerror}); name another place: --run.dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel lets go of it when a process dies
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            raise RunError(f"{run.folder} is in use by process {holder}; wait for it, or change a setting") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        if (run.folder / "config.yaml").is_file():
            _check_unchanged(run)
        else:
            write_text(run.folder / "config.yaml", config.dump_config(settings))
        yield run


def _check_unchanged(run: RunFolder) -> None:
    """RunError where the folder's config.yaml no longer says what the folder's name stands for."""
    path = run.folder / "config.yaml"
    there, ours = (config.settings_without(one, config.PLACES) for one in (config.load_config(path), run.settings))
    for section, value in ours.items():
        keys = [key for key in value if value[key] != there[section][key]] if isinstance(value, dict) else []
        if keys or there[section] != value:
            name = f"{section}.{keys[0]}" if keys else section
            was, now = (one[section][keys[0]] if keys else one[section] for one in (there, ours))
            raise RunError(
                f"{path} was changed since its run began: {name} is {was} there and {now} in this command; "
                f"delete {run.folder} to begin anew, or say --{name} {was} for another run"
            )
