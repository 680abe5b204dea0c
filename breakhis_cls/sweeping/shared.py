"""What the runs of a sweep have in common: their names on this data, their tasks, and the work that is done once."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import config
from ..config import Config
from ..data import dataset
from ..files import sha256_of_values, write_text
from ..modeling import run_folder, weights
from ..modeling.run_folder import RunFolder
from .tasks import HEAD, TUNE, Resources, Task

CHILD = ("-m", "breakhis_cls.sweeping.worker")


def name_runs(settings: Sequence[Config]) -> list[RunFolder]:
    """The run that each settings stand for on the images that are there; none is opened. Equal runs once.

    Decodes images that were never decoded, which every run would do; imports no TensorFlow. Prints the data's warnings.
    """

    gathered = functools.cache(lambda content: dataset.load_dataset(Config.model_validate_json(content)))
    identity = functools.cache(lambda content: weights.weights_identity(config.Model.model_validate_json(content)))
    found: dict[str, RunFolder] = {}
    told: dict[str, None] = {}
    for one in settings:
        made_from = gathered(Config(data=one.data, split=one.split).model_dump_json())
        name = run_folder.run_name(one, made_from.sha256, identity(one.model.model_dump_json()), made_from.split)
        found.setdefault(name, RunFolder(one.run.dir / name, one))
        told |= dict.fromkeys(made_from.warnings)
    for sentence in told:
        print(f"warning: {sentence}", file=sys.stderr)
    return list(found.values())


def run_task(run: RunFolder) -> Task:
    """`train` of one run, without a report; its settings and its log lie beside the runs."""
    return Task(run.folder.name, (*CHILD, "run", str(_kept(run))), _beside(run, ".log"), run.folder)


def preparation_tasks(of: Sequence[RunFolder]) -> list[Task]:
    """What fills the caches for all of them; one process for every way to set TensorFlow up, thus one as a rule."""
    files: dict[tuple[object, ...], dict[str, str]] = {}
    for run in of:
        setup = run.settings.run.deterministic, run.settings.run.precision
        files.setdefault(setup, {}).setdefault(_caches(run.settings), str(_kept(run)))
    return [Task("shared work", (*CHILD, "prepare", *kept.values()), None) for kept in files.values()]


def needs_of(of: Sequence[RunFolder]) -> Resources:
    """Of any of these runs."""
    return TUNE if any(run.settings.tune.part != "none" and run.settings.tune.epochs for run in of) else HEAD


def _caches(settings: Config) -> str:
    """Equal for runs that read the same pixel store and features."""
    drawn = settings.run.seed if settings.model.weights == "random" else None
    views = settings.head.views if settings.head.epochs else 0
    parts = settings.data, settings.split.protocol, settings.image, settings.model.backbone, settings.model.weights
    return sha256_of_values(*map(str, parts), views, drawn)


def _kept(run: RunFolder) -> Path:
    write_text(_beside(run, ".yaml"), config.dump_config(run.settings))
    return _beside(run, ".yaml")


def _beside(run: RunFolder, suffix: str) -> Path:
    return run.settings.run.dir / ".sweep" / (run.folder.name + suffix)
