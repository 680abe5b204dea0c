"""A run's folder: its name, its lock, and the files it leaves. One experiment has one name on every machine."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import Timeout

from .. import config, names
from ..data import protocols
from ..data.dataset import Dataset
from ..errors import RunError, RunInUseError
from ..files import lock, sha256_of_values, write_csv, write_json, write_text

# Part of a run's name: raise it when a change of the code changes results, so that no old run passes for a new one.
RESULTS_VERSION = 3


@dataclass(frozen=True)
class RunFolder:
    """One model trained under one resolved config."""

    folder: Path
    settings: config.Config

    @property
    def finished(self) -> bool:
        """Whether metrics.json, which is written last, is there."""
        return (self.folder / "metrics.json").is_file()

    def write_predictions(self, dataset: Dataset, probabilities: np.ndarray, model: str) -> None:
        """Write predictions.csv of the rows that have probabilities (n, n_classes), raw; NaN elsewhere. Part is test,
        or validation: predicted by a model that was not fitted on the image, and no test row. model: its title."""
        rows = dataset.split[np.isfinite(probabilities).all(axis=1)]
        part = np.where(rows["part"] == "test", "test", "validation")
        protocol, seed = protocols.protocol_name(self.settings.split.protocol), self.settings.run.seed
        table = rows.assign(part=part, protocol=protocol, data=dataset.name, model=model, seed=seed)
        for at, name in enumerate(dataset.classes):
            table[f"p_{name}"] = probabilities[rows.index, at].astype(np.float64)
        write_csv(self.folder / "predictions.csv", table)

    def finish(self, metrics: dict[str, Any]) -> None:
        """Write metrics.json, whose presence says that the run is finished; then remove what only a resume needs."""
        write_json(self.folder / "metrics.json", metrics)
        for leftover in self.folder.glob("tune/epoch-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def run_name(settings: config.Config, data_sha256: str, encoder_identity: str, split: pd.DataFrame) -> str:
    """`<config name>-<fold>-<seed>-<8 hex>`: the hex is the hash of all that changes the result, but of no path."""
    # Places are left out. A protocol and weights that are files count by their content: the split and a hash.
    content, protocol = config.settings_without(settings, config.PLACES), Path(settings.split.protocol).name
    parts = np.stack([split["file"].map(names.canonical_path), split["part"]], axis=1).tolist()
    key = sha256_of_values(RESULTS_VERSION, content, protocol, data_sha256, encoder_identity, parts)
    return f"{settings.name}-{settings.split.fold}-{settings.run.seed}-{key[:8]}"


@contextmanager
def open_run(settings: config.Config, name: str) -> Iterator[RunFolder]:
    """The run's folder, created where it is missing and locked while open.

    Raises RunError where another process has it open, or its config.yaml was changed.
    """
    run = RunFolder(settings.run.dir / name, settings)
    try:
        held = lock(run.folder / ".lock", 0)  # the system releases it when a process dies
    except Timeout:
        raise RunInUseError(f"{run.folder} is in use by another process; wait for it, or change a setting") from None
    with held:
        # The name stands for these settings. A config.yaml that was edited would describe another run than this one.
        path = run.folder / "config.yaml"
        if not path.is_file():
            write_text(path, config.dump_config(settings))
        saved = config.settings_without(config.load_config(path), config.PLACES)
        for section, values in config.settings_without(settings, config.PLACES).items():
            for key, value in values.items():
                if (there := saved[section][key]) != value:
                    raise RunError(
                        f"{path} was changed since its run began: {section}.{key} is {there} there and {value} in "
                        f"this command; delete {run.folder} to begin again, or use --{section}.{key} {there}"
                    )
        yield run
