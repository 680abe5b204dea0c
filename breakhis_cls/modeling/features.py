"""A frozen backbone sees each image once: outputs kept on disk, shared by folds, tasks, seeds and protocols.

Kept as shards (.npz of pixel hashes and outputs), each written atomically: a killed extraction loses one shard, two at
once at worst do the same work twice, and a new image costs itself alone.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import config
from ..files import atomic_path, sha256_of_values
from ..pipeline import batches
from . import devices, network, weights

BATCH_SIZE = 32  # fixed: part of what an output depends on; 8 to 64 differ by a tenth on CPU (docs/performance.md)
SHARD_ROWS = 128  # some ten seconds of work on two cores: what a kill may cost
VERSION = 1  # raise it when the outputs change meaning
ALL_BLOCKS = tuple(network.BLOCKS)
Forward = Callable[[tf.Tensor], tf.Tensor]


def backbone_features(
    settings: config.Config, pixel_hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, views: tuple[int, ...]
) -> np.ndarray:
    """(n, len(views), d) float32 pooled features of `model.features` for rows `index` of the pixel store.

    pixel_hashes: (n,) hex SHA-256 of the rows. All blocks are extracted at once, since they cost one pass together.
    """
    build = functools.cache(lambda: compile_forward(_backbone(settings)))
    key = sha256_of_values(
        VERSION,
        BATCH_SIZE,
        settings.model.backbone,
        weights.weights_identity(settings.model),
        settings.run.seed if settings.model.weights == "random" else None,
        settings.image.model_dump(),
        ALL_BLOCKS,
        devices.numerics(),
    )[:16]
    folder = settings.data.cache / "features" / key
    per_view = [
        cached_outputs(build, pixel_hashes, pixels, index, folder / f"view-{view}", view, "features") for view in views
    ]
    return np.stack(per_view, axis=1)[:, :, _columns(settings.model)]


def cached_outputs(
    build: Callable[[], Forward],
    hashes: np.ndarray,
    pixels: np.ndarray,
    index: np.ndarray,
    folder: Path,
    view: int = 0,
    title: str = "outputs",
) -> np.ndarray:
    """(n, d) float32 outputs of a compiled model for rows `index` of `pixels`, from shards in `folder` or computed.

    `build` is called only if something is missing. `folder` must name all that the outputs depend on but the pixels.
    """
    known = _read_shards(folder)
    missing = [at for at, name in enumerate(hashes) if name not in known]
    if missing:
        _compute(build(), hashes[missing], pixels, index[missing], folder, view, title, known)
    return np.stack([known[name] for name in hashes])


def compile_forward(model: keras.Model) -> Forward:
    """The model's inference pass as one graph, (n, h, w, 3) uint8 -> (n, d)."""
    return tf.function(lambda batch: model(batch, training=False))


def _compute(forward: Forward, hashes, pixels, index, folder, view, title, known) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{title}, view {view}", total=len(index))
        for start in range(0, len(index), SHARD_ROWS):
            part = slice(start, start + SHARD_ROWS)
            rows = []
            for batch in batches.ordered_batches(pixels, index[part], BATCH_SIZE, view):
                rows.append(_forward_full(forward, batch))
                progress.advance(task, len(batch))
            computed = np.concatenate(rows)
            _write_shard(folder, hashes[part], computed)
            known.update(zip(hashes[part], computed, strict=True))


def _forward_full(forward, batch: tf.Tensor) -> np.ndarray:
    """Fill the last batch up with white, so that every row is computed in one shape: one trace, equal bits."""
    n_missing = BATCH_SIZE - len(batch)
    full = tf.pad(batch, [[0, n_missing], [0, 0], [0, 0], [0, 0]], constant_values=255)
    return forward(full).numpy()[: len(batch)].astype(np.float32)


def _write_shard(folder: Path, hashes: np.ndarray, rows: np.ndarray) -> None:
    with atomic_path(folder / f"shard-{sha256_of_values(list(hashes))[:16]}.npz") as temporary:
        np.savez(temporary, hashes=np.asarray(hashes, dtype="U64"), rows=rows)


def _read_shards(folder: Path) -> dict[str, np.ndarray]:
    known = {}
    for path in sorted(folder.glob("shard-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:  # the zip's CRC is checked here
                known.update(zip(shard["hashes"].tolist(), shard["rows"], strict=True))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # damaged: its rows are computed again
    return known


def _columns(model: config.Model) -> np.ndarray:
    widths = network.widths(model)
    starts = dict(zip(ALL_BLOCKS, np.cumsum([0, *widths.values()]), strict=False))
    return np.concatenate([np.arange(widths[block]) + starts[block] for block in model.features])


def _backbone(settings: config.Config) -> keras.Model:
    keras.utils.set_random_seed(settings.run.seed)  # the only seed keras.applications listens to
    backbone = network.build_backbone(settings.model, ALL_BLOCKS)
    backbone.trainable = False
    return backbone
