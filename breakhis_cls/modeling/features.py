"""Features of a frozen backbone: computed once for each image, kept on disk, shared by folds, tasks and protocols.

They are kept as shards (.npz of pixel hashes and outputs), each written atomically. A killed extraction loses one
shard; two at once at worst do the same work twice; a new image costs itself alone. Reading them imports no Keras.

On CPU they are computed in a process of their own: oneDNN is switched when TensorFlow is imported, on for a forward
pass, which it makes faster and which stays repeatable, and off for training, which would not.
"""

import functools
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import config
from ..errors import BAD_INPUT, DONE, INTERRUPTED, BreakHisError
from ..files import atomic_path, sha256_of_values
from ..parallel import show_progress
from . import devices, weights

BATCH_SIZE = 32  # fixed: outputs depend on it; 8 to 64 differ by a tenth in speed on CPU (docs/performance.md)
SHARD_ROWS = 128  # some ten seconds of work on two cores, which is what a kill may cost
VERSION = 3  # raise it when the outputs change meaning
BLOCKS = ("conv3", "conv4", "conv5")  # whose pooled outputs may feed the head: one pass gives them all


def backbone_features(
    settings: config.Config, pixel_hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray
) -> np.ndarray:
    """(n, d) float32 pooled features of `model.features` for rows `index` of the pixel store.

    pixel_hashes: (n,) hex SHA-256 of the rows.
    """
    # All that the outputs depend on, but for the pixels, whose hashes name the rows within the folder.
    model, machine = settings.model, devices.numerics(settings.run, extraction=True)
    identity, seed = weights.weights_identity(model), settings.run.seed if model.weights == "random" else None
    image = settings.image.model_dump()
    key = sha256_of_values(VERSION, BATCH_SIZE, model.backbone, identity, seed, image, BLOCKS, machine)
    folder = settings.data.cache / "features" / key[:16]

    known = read_shards(folder, model.features)
    missing = np.array([at for at, name in enumerate(pixel_hashes) if name not in known], int)
    if len(missing):
        shards = extract_apart if devices.extracts_apart(settings.run) else extract
        title = f"features of {len(missing):,} images"
        work = shards(settings, pixel_hashes[missing], pixels, index[missing], folder)
        for _ in show_progress(work, title, -(-len(missing) // SHARD_ROWS)):
            pass
        known = read_shards(folder, model.features)
    return np.stack([known[name] for name in pixel_hashes])


def extract(
    settings: config.Config, hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, folder: Path
) -> Iterator[Path]:
    """Write shards of features of rows `index` of `pixels` and yield each shard's path."""
    onednn, precision = (devices.numerics(settings.run, extraction=True)[key] for key in ("onednn", "precision"))
    devices.prepare(settings.run.deterministic, precision, onednn)  # before anything imports Keras
    from . import network

    backbone = network.build_backbone(settings.model, BLOCKS, settings.run.seed)
    yield from write_shards(backbone, network.widths(settings.model), hashes, pixels, index, folder)


def write_shards(
    model: Any, widths: dict[str, int], hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, folder: Path
) -> Iterator[Path]:
    """Write outputs of a model for rows `index` of `pixels` in shards; `widths` of its pieces lie side by side."""
    ends = np.cumsum([*widths.values()])[:-1]
    for start in range(0, len(index), SHARD_ROWS):
        at = slice(start, start + SHARD_ROWS)
        pieces = np.split(predict_rows(model, pixels, index[at]), ends, axis=1)
        content: dict[str, Any] = dict(zip(widths, pieces, strict=True), hashes=np.asarray(hashes[at], dtype="U64"))
        path = folder / f"shard-{sha256_of_values(list(hashes[at]))[:16]}.npz"
        with atomic_path(path) as temporary:
            np.savez(temporary, **content)
        yield path


def predict_rows(model: Any, pixels: np.ndarray, index: np.ndarray) -> np.ndarray:
    """(n, d) float32 outputs of a model for rows `index` of (m, h, w, 3) uint8 pixels."""
    # The last batch is filled up with its last row: every row is computed in one shape, to equal bits.
    full = np.pad(index, (0, -len(index) % BATCH_SIZE), mode="edge").reshape(-1, BATCH_SIZE)
    if not model.compiled:
        model.jit_compile = devices.jit_compile()
    # Not `predict`: TensorFlow keeps every generator that it was ever given, and with it the pixels.
    outputs = np.concatenate([model.predict_on_batch(pixels[rows]) for rows in full])
    return outputs[: len(index)].astype(np.float32)


def read_shards(folder: Path, blocks: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Rows of a folder's shards by their hash, blocks side by side."""
    return _read_shards(tuple((path, path.stat().st_mtime_ns) for path in folder.glob("shard-*.npz")), blocks)


@functools.lru_cache(maxsize=2)  # one worker of a sweep makes many runs on the same features
def _read_shards(stamped: tuple[tuple[Path, int], ...], blocks: tuple[str, ...]) -> dict[str, np.ndarray]:
    """A shard that changed has another stamp."""
    known: dict[str, np.ndarray] = {}
    for path, _ in sorted(stamped):
        try:
            with np.load(path, allow_pickle=False) as shard:  # checks the zip's CRC, and reads what is asked for alone
                rows = np.concatenate([shard[block] for block in blocks], axis=1)
                known.update(zip(shard["hashes"].tolist(), rows, strict=True))
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile):
            path.unlink(missing_ok=True)  # damaged: its rows are computed again
    return known


# --- in a process of its own ---


def extract_apart(
    settings: config.Config, hashes: np.ndarray, pixels: np.ndarray, index: np.ndarray, folder: Path
) -> Iterator[str]:
    """`extract` in a child process, which ends when this one does; yields a line for each shard that is written."""
    with tempfile.TemporaryDirectory() as scratch:
        file, work, failure = (Path(scratch, name) for name in ("pixels.npy", "work", "error"))
        if isinstance(pixels, np.memmap) and not isinstance(pixels.base, np.memmap):  # a whole file, and no part of it
            file = pixels.filename
        else:
            np.save(file, pixels)
        work.write_bytes(pickle.dumps((settings, hashes, file, index, folder)))
        command = [sys.executable, "-m", __name__, scratch]
        # stdin stays open as long as we live. Ctrl-C reaches only us: we end the child.
        apart = {"start_new_session": True, "creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "encoding": "utf-8"}
        with subprocess.Popen(command, **pipes, **apart) as child:
            yield from child.stdout or ()
        if failure.is_file():
            raise pickle.loads(failure.read_bytes())
        if child.returncode != DONE:
            raise subprocess.CalledProcessError(child.returncode, command)


def main(scratch: str) -> int:
    """What the child does; prints a line for each shard."""

    def end_with_parent() -> None:
        os.read(0, 1)  # returns when the parent ends, which holds the other end
        os._exit(INTERRUPTED)

    threading.Thread(target=end_with_parent, daemon=True).start()
    settings, hashes, pixels, index, folder = pickle.loads(Path(scratch, "work").read_bytes())
    try:
        for path in extract(settings, hashes, np.load(pixels, mmap_mode="r"), index, folder):
            print(path, flush=True)
    except (BreakHisError, OSError) as error:
        Path(scratch, "error").write_bytes(pickle.dumps(error))
        return BAD_INPUT
    return DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
