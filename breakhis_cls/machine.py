"""What this machine has: versions, memory, devices, Kaggle's credentials. A finding is a row that says what to do."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from . import config
from .data import kaggle_download
from .errors import BreakHisError

OK, NOTE, MISSING = "ok", "note", "missing"
PACKAGE = "breakhis_cls"
INSTALL = "pip install -c constraints.txt -e ."
ENOUGH_BYTES = 8 * 2**30  # of memory: what fine-tuning conv5 at 230x350 in batches of 16 has to do with


class Check(NamedTuple):
    """What was looked for, how it is (OK, NOTE: a run can do without, MISSING: it cannot), and what to do."""

    topic: str
    state: str
    found: str
    advice: str = ""


def versions() -> Iterator[Check]:
    """Python, TensorFlow and Keras against the ranges that the package names, and any other that is out of range."""
    python = SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"])
    yield _version("Python", platform.python_version(), python, "make the environment with another Python")
    for wanted in map(Requirement, metadata.requires(PACKAGE) or []):
        if wanted.marker is None:  # a marker names an extra
            found = _version(wanted.name, _installed(wanted.name), wanted.specifier, INSTALL)
            if wanted.name in ("tensorflow", "keras") or found.state != OK:
                yield found


def memory(tune: config.Tune) -> Check:
    """Of the machine, or of the container where that is less."""
    n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
        n_bytes = min(n_bytes, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    found = f"{n_bytes / 2**30:.1f} GiB, {os.cpu_count()} cores"
    if tune.part == "none" or n_bytes >= ENOUGH_BYTES:
        return Check("memory", OK, found)
    smaller = f"--tune.batch_size {max(tune.batch_size // 4, 1)} --tune.accumulate {4 * tune.accumulate}"
    return Check("memory", NOTE, found, f"fine-tuning may take 8 GiB; if it does not fit, {smaller}")


def credentials() -> Check:
    """Where Kaggle's client would find who asks; never what it would find there."""
    places = [place for place, is_there in kaggle_download.credential_places().items() if is_there]
    places = [place for place in places if not place.startswith("KAGGLE_CONFIG_DIR")]  # says where to look, no more
    if places:
        return Check("Kaggle", OK, f"credentials in {', '.join(places)}")
    advice = "only `breakhis download` wants them, and says how to make a token; --from-zip does without"
    return Check("Kaggle", NOTE, "no credentials", advice)


def devices(run: config.Run) -> Iterator[Check]:
    """What TensorFlow computes on and how, set up as a run would do it. The one finding that imports TensorFlow."""
    from .modeling import devices

    try:
        devices.prepare(run.deterministic, run.precision)
        found, policy = devices.device_names(), devices.dtype_policy(run.precision)
    except (BreakHisError, ImportError) as error:
        yield Check("devices", MISSING, f"TensorFlow does not start: {error}", INSTALL)
        return
    if found == ["CPU"]:
        yield Check("devices", NOTE, "no GPU: a run computes on the CPU", _about_gpus())
    else:
        yield Check("devices", OK, ", ".join(found))
    yield Check("precision", OK, policy if policy == run.precision else f"{policy} (by {run.precision})")


def _version(name: str, found: str, wanted: SpecifierSet, advice: str) -> Check:
    if found and found in wanted:
        return Check(name, OK, f"{found} (supported: {wanted})")
    return Check(name, MISSING, f"{found or 'not installed'} (supported: {wanted})", advice)


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _about_gpus() -> str:
    install = "pip install -c constraints.txt -e '.[gpu]'"
    if shutil.which("nvidia-smi"):
        return f"TensorFlow sees no GPU, but there is an NVIDIA driver: {install}; nvidia-smi should list the card"
    return f"for an NVIDIA card: its driver (nvidia-smi is not found), then {install}"
