"""A sweep's YAML, and the runs that it stands for. No image is looked at and nothing is trained here."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from .. import config
from ..config import Config, Section
from .search import Search

Values = Mapping[str, Any]  # setting, such as head.peak_lr -> its value


class Sweep(Section):
    """A base config and what varies over it; settings by their dotted names, as on a command line."""

    name: str = "sweep"
    """Of its runs; by default the name of the YAML file."""
    base: Path | None = None
    """An ordinary config, relative to the sweep's file; without one the defaults of every setting."""
    set: dict[str, Any] = Field(default={})
    """Setting -> its value in every run."""
    axes: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default={})
    """Setting -> the values it takes; every combination is a run."""
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


def expand_runs(sweep: Sweep, overrides: Values) -> list[Config]:
    """Every combination of the axes, the last axis fastest; equal ones once. `overrides` win over axes and `set`.

    ConfigError names a setting that does not exist, its nearest neighbour, and values that a setting cannot take.
    """
    base = config.load_config(sweep.base) if sweep.base else Config()
    content = base.model_dump() | {"name": sweep.name}
    found = []
    for values in itertools.product(*sweep.axes.values()):
        chosen = sweep.set | dict(zip(sweep.axes, values, strict=True)) | dict(overrides)
        found.append(config.validate_settings(Config, _changed(content, chosen), f"sweep {sweep.name}"))
    return list(dict.fromkeys(found))


def _changed(content: dict[str, Any], values: Values) -> dict[str, Any]:
    changed = copy.deepcopy(content)
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key and isinstance(changed.get(section), dict):
            changed[section][key] = value
        else:
            changed[name] = value  # an unknown section stays in the name, so that the nearest is found by all of it
    return changed
