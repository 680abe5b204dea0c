"""Features of a frozen backbone: computed once for each image, kept on disk, shared by folds, tasks and protocols.

They are kept as shards (.npz of pixel hashes and outputs), each written atomically. A killed extraction loses one
shard; two at once at worst do the same work twice; a new image costs itself alone. Reading them imports no TensorFlow.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import config
from ..files import atomic_path, sha256_of_values
from ..parallel import show_progress
from . import devices, weights

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

BATCH_SIZE = 32  # fixed: outputs depend on it; 8 to 64 differ by a tenth in speed on CPU (docs/performance.md)
SHARD_ROWS = 128  # some ten seconds of work on two cores, which is what a kill may cost
VERSION = 2  # raise it when the outputs change meaning
BLOCKS = ("conv3", "conv4", "conv5")  # whose pooled outputs may feed the head: one pass gives them all
Forward = Callable[["tf.Tensor"], dict[str, "tf.Tensor"]]


def backbone_features(
    settings: config.Config, pixel_hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, view: int = 0
) -> np.ndarray:
    """(n, d) float32 pooled features of `model.features` for rows `index` of the pixel store, seen in one view.

    pixel_hashes: (n,) hex SHA-256 of the rows.
    """
    model = settings.model
    # All that the outputs depend on, but for the pixels, whose hashes name the rows within the folder.
    identity, seed = weights.weights_identity(model), settings.run.seed if model.weights == "random" else None
    image, machine = settings.image.model_dump(), devices.numerics(settings.run)
    key = sha256_of_values(VERSION, BATCH_SIZE, model.backbone, identity, seed, image, BLOCKS, machine)
    folder = settings.data.cache / "features" / key[:16] / f"view-{view}"

    def build_forward() -> Forward:
        devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
        import keras

        from . import network

        keras.utils.set_random_seed(settings.run.seed)  # the only seed that keras.applications uses
        backbone = network.build_backbone(model, BLOCKS)
        backbone.trainable = False
        return compile_forward(backbone, network.widths(model))

    return cached_outputs(build_forward, pixel_hashes, pixels, index, folder, view, "features", model.features)


def cached_outputs(
    build_forward: Callable[[], Forward], hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, folder: Path,
    view: int = 0, title: str = "outputs", blocks: tuple[str, ...] = ("rows",),
) -> np.ndarray:  # fmt: skip
    """(n, d) float32 outputs of a compiled model for rows `index` of `pixels`, from shards in `folder` or computed.

    `build_forward` is called only if something is missing. Outputs may depend on pixels and what names `folder` alone.
    Those of `blocks` lie side by side.
    """
    known = dict(_read_shards(tuple((path, path.stat().st_mtime_ns) for path in folder.glob("shard-*.npz")), blocks))
    missing = [at for at, name in enumerate(hashes) if name not in known]
    if not missing:
        return np.stack([known[name] for name in hashes])

    # --- compute what is missing, a shard at a time ---
    forward = build_forward()
    import tensorflow as tf

    from ..pipeline import batches

    shards = [missing[start : start + SHARD_ROWS] for start in range(0, len(missing), SHARD_ROWS)]
    for at in show_progress(
        shards, f"{title} of {len(missing):,} images" + (f", view {view}" if view else ""), len(shards)
    ):
        outputs = []
        for batch in batches.ordered_batches(pixels, index[at], BATCH_SIZE, view):
            # The last batch is filled up with white: every row is computed in one shape, in one trace, to equal bits.
            n_missing = BATCH_SIZE - len(batch)
            full = tf.pad(batch, [[0, n_missing], [0, 0], [0, 0], [0, 0]], constant_values=255)
            output = forward(full).items()
            outputs.append({block: rows.numpy()[: len(batch)].astype(np.float32) for block, rows in output})
        content: dict[str, Any] = {block: np.concatenate([one[block] for one in outputs]) for block in outputs[0]}
        content["hashes"] = np.asarray(hashes[at], dtype="U64")
        with atomic_path(folder / f"shard-{sha256_of_values(list(hashes[at]))[:16]}.npz") as temporary:
            np.savez(temporary, **content)
        known.update(zip(hashes[at], _join(content, blocks), strict=True))
    return np.stack([known[name] for name in hashes])


@functools.lru_cache(maxsize=2)  # one worker of a sweep makes many runs on the same features
def _read_shards(stamped: tuple[tuple[Path, int], ...], blocks: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Rows of shards by their hash; a shard that changed has another stamp."""
    known: dict[str, np.ndarray] = {}
    for path, _ in sorted(stamped):
        try:
            with np.load(path, allow_pickle=False) as shard:  # checks the zip's CRC, and reads what is asked for alone
                known.update(zip(shard["hashes"].tolist(), _join(shard, blocks), strict=True))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # damaged: its rows are computed again
    return known


def _join(content: Mapping[str, np.ndarray], blocks: tuple[str, ...]) -> np.ndarray:
    return np.concatenate([content[block] for block in blocks], axis=1)


def compile_forward(model: keras.Model, widths: dict[str, int]) -> Forward:
    """The model's inference pass as one graph: (n, h, w, 3) uint8 -> (n, width) pieces of its output, by name."""
    import tensorflow as tf

    def forward(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        pieces = tf.split(model(batch, training=False), [*widths.values()], axis=1)
        return dict(zip(widths, pieces, strict=True))

    return tf.function(forward)
