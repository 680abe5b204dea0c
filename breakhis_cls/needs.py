"""What a run with these settings needs of this machine: images, a split of them, weights, room. Opens no image."""

from __future__ import annotations

import itertools
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from . import config, names
from .data import archive, completeness, index, kaggle_download, splits
from .errors import BreakHisError
from .machine import MISSING, NOTE, OK, Check
from .modeling import weights
from .synthetic import tree

RUN_BYTES = 1_000_000_000  # model, and two checkpoints with AdamW's state while one replaces the other
FEATURE_BYTES = 3072 * 4  # of one image and view: conv4 and conv5 of ResNet50, the widest


def check_run(settings: config.Config) -> Iterator[Check]:
    """Images, split, weights, disk, and folders that cannot be written."""
    images = named(settings.data)
    yield data(settings.data, images)
    if isinstance(images, pd.DataFrame):
        yield split(settings, images)
    yield weights_of(settings.model)
    yield disk(settings, images)
    yield from unwritable(settings)


def named(asked: config.Data) -> pd.DataFrame | BreakHisError:
    """The images asked for, by their names alone; or why there are none."""
    if asked.root == "synthetic":
        return _drawn(asked)
    try:
        return index.list_images(asked)
    except BreakHisError as error:
        return error


def data(asked: config.Data, images: pd.DataFrame | BreakHisError) -> Check:
    """How many of the official images are there, and how many at the magnifications asked for."""
    if isinstance(images, BreakHisError):
        return Check("data", MISSING, "no images to train on", str(images))
    if asked.root == "synthetic":
        return Check("data", OK, f"{len(images):,} images of synthetic tissue; the first run draws them")
    counted = completeness.check_tree(index.find_root(asked))
    at = " ".join(f"{magnification}X" for magnification in sorted(asked.magnifications))
    found = f"{counted.n_images:,} of {counted.n_expected:,} images under {counted.root}, {len(images):,} at {at}"
    if counted.is_whole:
        return Check("data", OK, found)
    return Check("data", NOTE, found, "a part trains too; `breakhis download --verify` names what is missing")


def split(settings: config.Config, images: pd.DataFrame) -> Check:
    """Whether the protocol can part these images; equal pixels are still counted twice."""
    asked = settings.split
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            table = splits.assign_split(splits.select_images(images, asked), asked, settings.data.task)
    except BreakHisError as error:
        return Check("split", MISSING, f"{asked.protocol} cannot part these images", str(error))
    n_of = table["part"].value_counts()
    parts = ", ".join(f"{n_of[part]:,} {part}" for part in ("train", "validation", "test"))
    return Check("split", OK, f"{asked.protocol}, fold {asked.fold} of {splits.count_folds(asked)}: {parts}")


def weights_of(model: config.Model) -> Check:
    """Whether the backbone's weights are on this disk."""
    if model.weights == "random":
        return Check("weights", OK, f"{model.backbone}, random")
    if model.weights == "imagenet":
        return _imagenet(model)
    try:
        sha256 = weights.weights_identity(model)
    except BreakHisError as error:
        return Check("weights", MISSING, "a file is named that is not there", str(error))
    return Check("weights", OK, f"{weights.weights_title(model)}, SHA-256 {sha256[:16]}..., {model.weights}")


def disk(settings: config.Config, images: pd.DataFrame | BreakHisError) -> Check:
    """Free space where pixels, features, archive, tree and run go, against what is still to come there."""
    needs = [need for need in _still_to_come(settings, images) if need[1]]
    phrases = []
    for folder in dict.fromkeys(folder for folder, *_ in needs):
        wanted = " + ".join(f"{what} {archive.size(n_bytes)}" for at, n_bytes, what in needs if at == folder)
        free = archive.size(shutil.disk_usage(_existing(folder)).free)
        phrases.append(f"{free} free under {folder}, to come: {wanted}")
    try:
        archive.check_free(needs)
    except BreakHisError as error:
        return Check("disk", MISSING, "; ".join(phrases), str(error))
    return Check("disk", OK, "; ".join(phrases))


def unwritable(settings: config.Config) -> Iterator[Check]:
    """The folders that a run would write to and may not."""
    folders = {"data.cache": settings.data.cache, "run.dir": settings.run.dir, "run.reports": settings.run.reports}
    for setting, folder in folders.items():
        there = _existing(folder)
        if not (there.is_dir() and os.access(there, os.W_OK)):
            yield Check("folder", MISSING, f"{there} cannot be written", f"name another place with --{setting}")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())


def _imagenet(model: config.Model) -> Check:
    filename, megabytes = weights.IMAGENET_FILES[model.backbone]
    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models"
    if (folder / filename).is_file():
        return Check("weights", OK, f"{model.backbone} (imagenet), {folder / filename}")
    advice = f"the first run fetches them ({megabytes} MB); without a network, name a file: --model.weights PATH"
    return Check("weights", NOTE, f"{model.backbone} (imagenet) not yet in {folder}", advice)


def _still_to_come(settings: config.Config, images: pd.DataFrame | BreakHisError) -> list[tuple[Path, int, str]]:
    """(folder, bytes, what)."""
    cache, image = settings.data.cache, settings.image
    n_images = names.N_IMAGES if isinstance(images, BreakHisError) else len(images)
    n_views = settings.head.views if settings.head.epochs else 0
    n_pixel_bytes = n_images * image.height_px * image.width_px * 3
    needs = [
        (cache, max(0, n_pixel_bytes - _stored(cache, image)), "pixel store"),
        (cache, n_images * n_views * FEATURE_BYTES, "features"),
        (settings.run.dir, RUN_BYTES, "run"),
    ]
    if isinstance(images, BreakHisError):
        root = Path(settings.data.root).expanduser()
        needs += [(cache, kaggle_download.ARCHIVE_BYTES, "archive"), (root, kaggle_download.ARCHIVE_BYTES, "tree")]
    return needs


def _drawn(asked: config.Data) -> pd.DataFrame:
    """The names of the tissue that a run draws."""
    cells = itertools.product(tree.SLIDES, asked.magnifications, range(1, tree.IMAGES_PER_CELL + 1))
    rows = []
    for slide, magnification, sequence in cells:
        kind, _, number = slide.rpartition("_")
        name = f"{kind}-{number}-{magnification}-{sequence:03d}.png"
        rows.append({"file": names.official_path(name), **names.parse_image_name(name)._asdict()})
    return pd.DataFrame(rows)


def _stored(cache: Path, image: config.Image) -> int:
    """Bytes on disk of the largest pixel store for images of this size."""
    stores = [path for path in cache.glob("pixels/*/pixels.npy") if _size_px(path) == (image.height_px, image.width_px)]
    return max((path.stat().st_blocks * 512 for path in stores), default=0)


def _size_px(path: Path) -> tuple[int, ...]:
    try:
        return np.load(path, mmap_mode="r").shape[1:3]
    except (OSError, ValueError):
        return ()
