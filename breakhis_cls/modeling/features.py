"""Features of a frozen backbone: computed once for each image, kept on disk, shared by folds, tasks and protocols.

They are kept as shards (.npz of pixel hashes and outputs), each written atomically. A killed extraction loses one
shard; two at once at worst do the same work twice; a new image costs itself alone.
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
from rich.progress import track

from .. import config
from ..files import atomic_path, sha256_of_values
from ..pipeline import batches
from . import devices, network, weights

BATCH_SIZE = 32  # fixed: outputs depend on it; 8 to 64 differ by a tenth in speed on CPU (docs/performance.md)
SHARD_ROWS = 128  # some ten seconds of work on two cores, which is what a kill may cost
VERSION = 1  # raise it when the outputs change meaning
ALL_BLOCKS = tuple(network.BLOCKS)
Forward = Callable[[tf.Tensor], tf.Tensor]


def backbone_features(
    settings: config.Config, pixel_hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, views: tuple[int, ...]
) -> np.ndarray:
    """(n, len(views), d) float32 pooled features of `model.features` for rows `index` of the pixel store.

    pixel_hashes: (n,) hex SHA-256 of the rows. All blocks are extracted at once, since they cost one pass together.
    """
    model = settings.model
    # All that the outputs depend on, but for the pixels, whose hashes name the rows within the folder.
    identity, seed = weights.weights_identity(model), settings.run.seed if model.weights == "random" else None
    image, machine = settings.image.model_dump(), devices.numerics()
    key = sha256_of_values(VERSION, BATCH_SIZE, model.backbone, identity, seed, image, ALL_BLOCKS, machine)
    folder = settings.data.cache / "features" / key[:16]

    @functools.cache  # built once for all views, and only if something is missing
    def build_forward() -> Forward:
        keras.utils.set_random_seed(settings.run.seed)  # the only seed that keras.applications uses
        backbone = network.build_backbone(model, ALL_BLOCKS)
        backbone.trainable = False
        return compile_forward(backbone)

    rows = pixel_hashes, pixels, index
    outputs = [cached_outputs(build_forward, *rows, folder / f"view-{view}", view, "features") for view in views]

    # All blocks lie side by side; take the columns of those that feed the head.
    widths = network.widths(model)
    starts = dict(zip(ALL_BLOCKS, np.cumsum([0, *widths.values()]), strict=False))
    columns = np.concatenate([np.arange(widths[block]) + starts[block] for block in model.features])
    return np.stack(outputs, axis=1)[:, :, columns]


def cached_outputs(
    build_forward: Callable[[], Forward], hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, folder: Path,
    view: int = 0, title: str = "outputs",
) -> np.ndarray:  # fmt: skip
    """(n, d) float32 outputs of a compiled model for rows `index` of `pixels`, from shards in `folder` or computed.

    `build_forward` is called only if something is missing. Outputs may depend on pixels and what names `folder` alone.
    """
    # --- read what is there ---
    known = {}
    for path in sorted(folder.glob("shard-*.npz")):
        try:
            with np.load(path, allow_pickle=False) as shard:  # checks the zip's CRC
                known.update(zip(shard["hashes"].tolist(), shard["rows"], strict=True))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # damaged: its rows are computed again

    # --- compute what is missing, a shard at a time ---
    forward = functools.cache(build_forward)
    missing = [at for at, name in enumerate(hashes) if name not in known]
    shards = [missing[start : start + SHARD_ROWS] for start in range(0, len(missing), SHARD_ROWS)]
    for shard in track(shards, f"{title}, view {view}", console=Console(stderr=True), disable=not shards):
        rows = []
        for batch in batches.ordered_batches(pixels, index[shard], BATCH_SIZE, view):
            # The last batch is filled up with white: every row is computed in one shape, in one trace, to equal bits.
            n_missing = BATCH_SIZE - len(batch)
            full = tf.pad(batch, [[0, n_missing], [0, 0], [0, 0], [0, 0]], constant_values=255)
            rows.append(forward()(full).numpy()[: len(batch)].astype(np.float32))
        computed = np.concatenate(rows)
        with atomic_path(folder / f"shard-{sha256_of_values(list(hashes[shard]))[:16]}.npz") as temporary:
            np.savez(temporary, hashes=np.asarray(hashes[shard], dtype="U64"), rows=computed)
        known.update(zip(hashes[shard], computed, strict=True))
    return np.stack([known[name] for name in hashes])


def compile_forward(model: keras.Model) -> Forward:
    """The model's inference pass as one graph, (n, h, w, 3) uint8 -> (n, d)."""
    return tf.function(lambda batch: model(batch, training=False))
