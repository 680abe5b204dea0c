"""A sweep's YAML, the runs that it stands for, and the processes that train them."""

import functools
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from .. import config
from ..config import Config, Section
from ..files import sha256_of_values, write_text
from ..modeling import run_folder, weights
from ..modeling.run_folder import RunFolder
from . import tasks, worker
from .search import Search
from .tasks import Task


class Sweep(Section):
    """A base config and what varies over it; settings by their dotted names, as on a command line."""

    name: config.Name = "sweep"
    """Of its runs; by default the name of the YAML file."""
    base: config.UserPath | None = None
    """An ordinary config: a path relative to the sweep's file, or the name of one that ships. None: the defaults."""
    set: dict[str, Any] = Field(default={})
    """Setting -> its value in every run."""
    axes: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default={})
    """Setting -> the values it takes; every combination is a run."""
    null_seeds: Annotated[int, Field(ge=0)] = 0
    """Seeds of a randomly initialised backbone on which each frozen head is fitted too: what a score is worth. The
    table and its figure show their range beside every result."""
    search: Search | None = None
    """With ranges instead of, or beside, axes: which setting is best."""


def read_sweep(path: Path) -> Sweep:
    """Read a sweep's file, which is found as `--config` finds it. ConfigError where a key or a range is invalid."""
    path = config.find_config(path)
    sweep = config.load_config(path, Sweep)
    if sweep.base is None:
        return sweep
    beside = path.parent / sweep.base
    return sweep.model_copy(update={"base": beside if beside.is_file() else config.find_config(sweep.base)})


def sweep_folds(base: Path) -> Sweep:
    """A sweep over all folds of a run's config."""
    from ..data import splits

    path, settings = config.find_config(base), config.load_config(base)
    return Sweep(name=settings.name, base=path, axes={"split.fold": tuple(range(splits.count_folds(settings.split)))})


def expand_runs(sweep: Sweep, overrides: Mapping[str, Any]) -> list[Config]:
    """Every combination of the axes, the last axis fastest; equal ones once. `overrides` win over axes and `set`.
    ConfigError names an unknown setting, the most similar known one, and values that a setting cannot have."""
    base = config.load_config(sweep.base) if sweep.base else Config()
    found = []
    for values in itertools.product(*sweep.axes.values()):
        changes = {"name": sweep.name, **sweep.set, **dict(zip(sweep.axes, values, strict=True)), **overrides}
        found.append(config.change_settings(base, changes, f"sweep {sweep.name}"))
        has_null = not found[-1].fine_tunes and not found[-1].features.source
        for seed in range(sweep.null_seeds if has_null else 0):
            found.append(config.change_settings(base, changes | {"model.weights": "random", "run.seed": seed}))
    return list(dict.fromkeys(found))  # settings are frozen, so they can be keys


def name_runs(settings: Sequence[Config]) -> list[RunFolder]:
    """The run folder of each settings, named by them and by the data that is there; equal runs once. Decodes images
    that were never decoded, which every run would do; imports no TensorFlow. Prints the data's warnings."""
    from ..data import dataset

    # Index and split are read once for each pair of `data` and `split` settings, weights are hashed once.
    load = functools.cache(lambda content: dataset.load_dataset(Config.model_validate_json(content)))
    identify = functools.cache(lambda content: weights.encoder_identity(Config.model_validate_json(content)))
    runs: dict[str, RunFolder] = {}
    warnings: dict[str, None] = {}
    for one in settings:
        data = load(Config(data=one.data, split=one.split, features=one.features).model_dump_json())
        identity = identify(Config(model=one.model, features=one.features).model_dump_json())
        name = run_folder.run_name(one, data.sha256, identity, data.split)
        runs.setdefault(name, RunFolder(one.run.dir / name, one))
        warnings |= dict.fromkeys(data.warnings)
    for sentence in warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    return list(runs.values())


def train_runs(
    runs: Sequence[RunFolder], name: str, kind: str, workers: int | None, retries: int, ray_address: str | None
) -> list[str]:
    """Train every run that is not finished; returns a message for each that failed for good. Fine-tuning has a process
    of its own, frozen heads share those of as many workers as there are. A run's settings and log lie in
    `<run.dir>/.sweep`. kind: `local` or `ray`; the rest is what `breakhis sweep` takes."""
    todo = [run for run in runs if not run.finished]
    if not todo:
        return []
    # Index, pixel store and features are computed before the runs begin, since many runs read the same ones: by one
    # process for each way to set TensorFlow up, which cannot change within a process; as a rule there is one way.
    to_prepare: dict[str, dict[str, Path]] = {}
    training = []
    for run in todo:
        one, path = run.settings, run.settings.run.dir / ".sweep" / f"{run.folder.name}.yaml"
        write_text(path, config.dump_config(one))
        set_up = f"{one.run.deterministic} {one.run.precision}"
        parts = one.data, one.split.protocol, one.image, one.model.backbone, one.model.weights, one.features
        seed = one.run.seed if one.model.weights == "random" else None  # which these weights are drawn from
        key = sha256_of_values(*map(str, parts), one.head.epochs > 0, seed)
        to_prepare.setdefault(set_up, {}).setdefault(key, path)
        log, shared = path.with_suffix(".log"), "" if one.fine_tunes else set_up
        training.append(Task(run.folder.name, worker.train_file, (path,), log, run.folder, shared))
    preparing = [Task("shared work", worker.prepare_files, (*paths.values(),)) for paths in to_prepare.values()]

    needs = tasks.TUNE if any(run.settings.fine_tunes for run in todo) else tasks.HEAD
    if kind == "ray":
        from .ray_cluster import RayCluster

        opened = RayCluster(ray_address, workers, needs)
    else:
        opened = tasks.LocalExecutor(workers, needs)
    with opened as executor:
        failures = tasks.fan_out(preparing, executor, retries, "")  # it shows its own progress
        return failures or tasks.fan_out(training, executor, retries, name)
