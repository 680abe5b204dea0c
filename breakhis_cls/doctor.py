"""Check whether this machine can run `train` with these settings, and what to install or change if not.

examples:
  breakhis doctor
  breakhis doctor --config finetune_200x

Looks at versions, memory, images, split, weights, disk, folders, credentials and devices. Opens no image, asks no
network, and imports TensorFlow for the last check only.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from . import config, names, parallel
from .errors import ANSWER_IS_NO, DONE, BreakHisError, exits_cleanly

if TYPE_CHECKING:
    import pandas as pd

OK, NOTE, MISSING = "ok", "note", "missing"
PACKAGE = "breakhis_cls"
INSTALL = "pip install -c constraints.txt -e ."
INSTALL_GPU = "pip install -c constraints.txt -e '.[gpu]'"
ENOUGH_BYTES = 8 * 2**30  # of memory, for fine-tuning conv5 at 230x350 in batches of 16
RUN_BYTES = 1_000_000_000  # the model, and two checkpoints with AdamW's state while one replaces the other
FEATURE_BYTES = 3072 * 4  # of one image and view: conv4 and conv5 of ResNet50, the widest backbone


class Check(NamedTuple):
    """One row: what was checked, its state (NOTE: a run works without it, MISSING: it does not), and what to do."""

    topic: str
    state: str
    found: str
    advice: str = ""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print a table of checks; exit code 1 if `train` with these settings could not run."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    settings = config.parse_settings(config.Config, argv, "breakhis doctor", __doc__)
    checks = list(run_checks(settings))
    table = Table("checked", "state", "found, and what to do")
    for topic, state, found, advice in checks:
        cell = Text(found, overflow="fold")
        if advice:
            cell.append(f"\n-> {advice}", style="bold" if state == MISSING else "")
        colour = {OK: "green", NOTE: "yellow", MISSING: "bold red"}[state]
        table.add_row(topic, Text(state, style=colour), cell)
    Console().print(table)
    if missing := [check.topic for check in checks if check.state == MISSING]:
        print(f"train cannot run with these settings; to fix: {', '.join(missing)}")
        return ANSWER_IS_NO
    print("train can run with these settings")
    return DONE


def run_checks(settings: config.Config) -> Iterator[Check]:
    """All checks, in the order of the table."""
    yield from check_versions()
    yield check_memory(settings.tune)
    images = None
    try:
        images = list_images(settings.data)
    except BreakHisError as error:
        yield Check("data", MISSING, "no images to train on", str(error))
    else:
        yield check_data(settings.data, len(images))
        yield check_split(settings, images)
    yield check_weights(settings.model)
    yield check_disk(settings, None if images is None else len(images))
    # Only a folder that cannot be written gets a row.
    folders = {"data.cache": settings.data.cache, "run.dir": settings.run.dir, "run.reports": settings.run.reports}
    for setting, folder in folders.items():
        existing = _existing(folder)  # a run creates what is missing below it
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            yield Check("folder", MISSING, f"{existing} cannot be written", f"choose another folder with --{setting}")
    yield check_credentials()
    yield from check_devices(settings.run)


# --- software and machine ---


def check_versions() -> Iterator[Check]:
    """Python, TensorFlow and Keras against the supported ranges, and any other dependency outside its range."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    requirements = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    supported = {one.name: one.specifier for one in requirements if one.marker is None}  # a marker names an extra
    for name, versions in {"Python": SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"]), **supported}.items():
        found = None
        with contextlib.suppress(metadata.PackageNotFoundError):
            found = platform.python_version() if name == "Python" else metadata.version(name)
        if found is None or found not in versions:
            advice = "create the environment with another Python" if name == "Python" else INSTALL
            yield Check(name, MISSING, f"{found or 'not installed'} (supported: {versions})", advice)
        elif name in ("Python", "tensorflow", "keras"):
            yield Check(name, OK, f"{found} (supported: {versions})")


def check_memory(tune: config.Tune) -> Check:
    """Memory of the machine, or of the container where that is less, and whether fine-tuning may need more."""
    n_bytes = parallel.memory_bytes()
    found = f"{n_bytes / 2**30:.1f} GiB, {os.cpu_count()} cores"
    if tune.part == "none" or n_bytes >= ENOUGH_BYTES:
        return Check("memory", OK, found)
    smaller = f"--tune.batch_size {max(tune.batch_size // 4, 1)} --tune.accumulate {4 * tune.accumulate}"
    return Check("memory", NOTE, found, f"fine-tuning may need 8 GiB; if memory runs out: {smaller}")


def check_devices(run: config.Run) -> Iterator[Check]:
    """TensorFlow's devices and precision, set up as a run does it."""
    from .modeling import devices

    # The same switches as a run, since they decide whether TensorFlow starts and in which precision.
    try:
        devices.prepare(run.deterministic, run.precision)
        found, policy = devices.device_names(), devices.dtype_policy(run.precision)
    except (BreakHisError, ImportError) as error:
        yield Check("devices", MISSING, f"TensorFlow does not start: {error}", INSTALL)
        return
    if found == ["CPU"]:
        advice = f"for an NVIDIA card: install its driver (nvidia-smi is missing), then {INSTALL_GPU}"
        if shutil.which("nvidia-smi"):
            advice = f"an NVIDIA driver is installed, but TensorFlow sees no GPU: {INSTALL_GPU}"
        yield Check("devices", NOTE, "no GPU: a run uses the CPU", advice)
    else:
        yield Check("devices", OK, ", ".join(found))
    yield Check("precision", OK, policy if policy == run.precision else f"{policy} (chosen by {run.precision})")


def check_credentials() -> Check:
    """Where Kaggle's client would find credentials; never the credentials themselves."""
    from .data import kaggle_download

    # KAGGLE_CONFIG_DIR only says where to look.
    places = [place for place, exists in kaggle_download.credential_places().items() if exists]
    if places := [place for place in places if not place.startswith("KAGGLE_CONFIG_DIR")]:
        return Check("Kaggle", OK, f"credentials in {', '.join(places)}")
    advice = "only `breakhis download` needs them, and explains how to make a token; not needed with --from-zip"
    return Check("Kaggle", NOTE, "no credentials", advice)


# --- what a run with these settings reads and writes ---


def list_images(data: config.Data) -> pd.DataFrame:
    """The images that a run would use, from their names alone. Raises DataError if there are none."""
    import pandas as pd

    from .data import index
    from .synthetic import tree

    if data.root != "synthetic":
        return index.list_images(data)
    # The first run draws them; until then there are only their names.
    rows = [
        {"file": names.official_path(name), **names.parse_image_name(name)._asdict()}
        for name in tree.list_filenames(tree.IMAGES_PER_CELL, tree.SLIDES)
    ]
    images = pd.DataFrame(rows)
    return images[images["magnification"].isin(data.magnifications)]


def check_data(data: config.Data, n_images: int) -> Check:
    """How many of the official images exist, and how many at the chosen magnifications."""
    from .data import completeness, index

    if data.root == "synthetic":
        return Check("data", OK, f"{n_images:,} images of synthetic tissue; the first run draws them")
    counted = completeness.check_tree(index.find_root(data))
    at = " ".join(f"{magnification}X" for magnification in sorted(data.magnifications))
    found = f"{counted.n_images:,} of {counted.n_expected:,} images under {counted.root}, {n_images:,} at {at}"
    if counted.is_complete:
        return Check("data", OK, found)
    return Check("data", NOTE, found, "training on a part works; `breakhis download --verify` lists what is missing")


def check_split(settings: config.Config, images: pd.DataFrame) -> Check:
    """Whether the protocol can split these images; images of equal pixels still count twice."""
    from .data import splits

    split = settings.split
    try:
        with warnings.catch_warnings():  # names of a CSV that are not there: the run itself prints them
            warnings.simplefilter("ignore", UserWarning)
            table = splits.assign_split(splits.select_images(images, split), split)
    except BreakHisError as error:
        return Check("split", MISSING, f"protocol {split.protocol} cannot split these images", str(error))
    counts = table["part"].value_counts()
    parts = ", ".join(f"{counts[part]:,} {part}" for part in ("train", "validation", "test"))
    return Check("split", OK, f"{split.protocol}, fold {split.fold} of {splits.count_folds(split)}: {parts}")


def check_weights(model: config.Model) -> Check:
    """Whether the backbone's weights are on this disk."""
    from .modeling import weights

    if model.weights == "random":
        return Check("weights", OK, f"{model.backbone}, random")
    if model.weights == "imagenet":
        filename, megabytes = weights.IMAGENET_FILES[model.backbone]
        folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
        if (folder / filename).is_file():
            return Check("weights", OK, f"{model.backbone} (imagenet), {folder / filename}")
        advice = f"the first run downloads them ({megabytes} MB); without a network: --model.weights PATH"
        return Check("weights", NOTE, f"{model.backbone} (imagenet) not yet in {folder}", advice)
    try:
        sha256 = weights.weights_identity(model)
    except BreakHisError as error:
        return Check("weights", MISSING, f"no file {model.weights}", str(error))
    return Check("weights", OK, f"{weights.weights_title(model)}, SHA-256 {sha256[:16]}..., {model.weights}")


def check_disk(settings: config.Config, n_images: int | None) -> Check:
    """Free space for pixel store, features and run; for archive and tree too where there are no images (None) yet."""
    import numpy as np

    from .data import archive, kaggle_download

    cache, image = settings.data.cache, settings.image
    n_rows, n_stored = names.N_IMAGES if n_images is None else n_images, 0
    for path in cache.glob("pixels/*/pixels.npy"):
        with contextlib.suppress(OSError, ValueError):
            if np.load(path, mmap_mode="r").shape[1:3] == (image.height_px, image.width_px):
                n_stored = max(n_stored, path.stat().st_size)
    needs = [
        (cache, max(0, n_rows * image.height_px * image.width_px * 3 - n_stored), "pixel store"),
        (cache, n_rows * settings.n_feature_views * FEATURE_BYTES, "features"),
        (settings.run.dir, RUN_BYTES, "run"),
    ]
    if n_images is None:
        root = Path(settings.data.root)
        needs += [(cache, kaggle_download.ARCHIVE_BYTES, "archive"), (root, kaggle_download.ARCHIVE_BYTES, "tree")]
    wanted: dict[Path, list[str]] = {}
    for folder, n_bytes, what in needs:
        if n_bytes:
            wanted.setdefault(folder, []).append(f"{what} {archive.format_bytes(n_bytes)}")
    free = {folder: archive.format_bytes(shutil.disk_usage(_existing(folder)).free) for folder in wanted}
    found = "\n".join(f"{free[at]} free under {at}; needed: {' + '.join(parts)}" for at, parts in wanted.items())
    try:
        archive.check_free(needs)
    except BreakHisError as error:
        return Check("disk", MISSING, found, str(error))
    return Check("disk", OK, found)


def _existing(folder: Path) -> Path:
    """The folder, or its nearest parent that exists."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


if __name__ == "__main__":
    sys.exit(main())
