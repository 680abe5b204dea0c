"""A run's folder: its name, its lock, and the files it leaves. One experiment has one name on every machine."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from . import config
from .errors import RunError
from .files import digest, replaced, write_json, write_text

if TYPE_CHECKING:
    from .data.material import Material

PATHS = (
    ("data", "root"),
    ("data", "cache"),
    ("run", "dir"),
    ("run", "reports"),
    ("model", "weights"),
    ("split", "protocol"),
)


@dataclass(frozen=True)
class Run:
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

    def write_table(self, name: str, table: pd.DataFrame) -> None:
        """A CSV of the run; floats keep all their digits, so that equal runs give equal bytes."""
        with replaced(self.folder / name) as temporary:
            table.to_csv(temporary, index=False, lineterminator="\n")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """A JSON file of the run."""
        write_json(self.folder / name, content)

    def write_predictions(self, material: Material, probabilities: np.ndarray, model: str) -> None:
        """predictions.csv of validation and test rows; probabilities (n, n_classes), raw."""
        meta = {"protocol": self.settings.split.protocol, "data": material.name, "model": model}
        table = material.split[material.of("validation", "test")].assign(**meta, seed=self.settings.run.seed)
        for at, name in enumerate(material.classes):
            table[f"p_{name}"] = probabilities[:, at].astype(np.float64)
        self.write_table("predictions.csv", table)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Metrics last: their file says that the run is finished. Then drop what only an unfinished run needs."""
        self.write_json("metrics.json", metrics)
        for leftover in [self.folder / "outputs", *self.folder.glob("*/epoch-*")]:
            shutil.rmtree(leftover, ignore_errors=True)


def name_of(settings: config.Config, data_id: str, weights_id: str, split: pd.DataFrame) -> str:
    """`<config name>-<fold>-<seed>-<8 hex>`: the hex stands for all that moves the result, not for paths."""
    parts = split[["file", "part"]].to_numpy().tolist()
    hexes = digest(_without_paths(settings), Path(settings.split.protocol).name, data_id, weights_id, parts)[:8]
    return f"{settings.name}-{settings.split.fold}-{settings.run.seed}-{hexes}"


@contextmanager
def opened(settings: config.Config, name: str) -> Iterator[Run]:
    """The run's folder, made where it is not there, and ours alone while open. RunError if another process has it."""
    run = Run(settings.run.dir / name, settings)
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
            write_text(run.folder / "config.yaml", config.to_yaml(settings))
        yield run


def _check_unchanged(run: Run) -> None:
    """RunError where the folder's config.yaml no longer says what the folder's name stands for."""
    path = run.folder / "config.yaml"
    there, ours = (_without_paths(one) for one in (config.from_yaml(path), run.settings))
    for section, value in ours.items():
        keys = [key for key in value if value[key] != there[section][key]] if isinstance(value, dict) else []
        if keys or there[section] != value:
            name = f"{section}.{keys[0]}" if keys else section
            was, now = (one[section][keys[0]] if keys else one[section] for one in (there, ours))
            raise RunError(
                f"{path} was changed since its run began: {name} is {was} there and {now} in this command; "
                f"delete {run.folder} to begin anew, or say --{name} {was} for another run"
            )


def _without_paths(settings: config.Config) -> dict[str, Any]:
    """What names an experiment: all settings but where things lie and what it is called."""
    content = settings.model_dump(mode="json")
    for section, key in PATHS:
        del content[section][key]
    del content["name"]
    return content
