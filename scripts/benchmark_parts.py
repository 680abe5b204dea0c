"""What benchmark.py is made of: clocks that take turns, trees of links, rates of the pipeline, growth and memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Picture

from breakhis_cls import config, names
from breakhis_cls.data import index, protocols
from breakhis_cls.pipeline.pixel_store import PixelStore

BATCH = 32
FACTORS = (1, 2, 4, 8)
SPREAD = 0.1  # of every augmentation that has one
DRAINED_ROWS = 500  # at least so many pass in one measurement of the pipeline, else its start would count


def seconds(work: Callable[..., Any], *given: Any, clock: Callable[[], float] = time.perf_counter) -> float:
    """Of `work(*given)`, by the clock on the wall or by time.process_time, which counts core-seconds."""
    started = clock()
    work(*given)
    return clock() - started


def in_turns(works: dict[str, Callable[[int], float]], rounds: int) -> dict[str, np.ndarray]:
    """(rounds,) seconds of each work, called with the round's number; in turns, so that a machine that slows down
    slows all of them."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for at in range(rounds):
        for name, work in works.items():
            spent[name].append(work(at))
    return {name: np.array(found) for name, found in spent.items()}


def official(n: int, magnifications: Sequence[int] = names.MAGNIFICATIONS) -> list[str]:
    """n official names spread evenly over the slides; above their number, with sequence numbers that are not there."""
    images = protocols.official_images()
    files = images["file"][images["magnification"].isin(magnifications)].tolist()
    if n <= len(files):
        return [files[at] for at in np.linspace(0, len(files) - 1, n).astype(int)]
    return [_renumbered(files[at % len(files)], at // len(files)) for at in range(n)]


def _renumbered(file: str, more: int) -> str:
    stem, _, sequence = file.removesuffix(".png").rpartition("-")
    return f"{stem}-{int(sequence) + 10_000 * more:03}.png"


def linked(folder: Path, files: Sequence[str], pictures: Sequence[Path]) -> Path:
    """A tree of `files`, hard links to a few pictures in turn: as much to read and decode, little on disk."""
    for at, file in enumerate(files):
        link(pictures[at % len(pictures)], folder / file)
    return folder


def link(picture: Path, path: Path) -> None:
    """Make `path` a hard link to the picture, or a symbolic one from another file system."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.hardlink_to(picture)
    except OSError:
        path.symlink_to(picture.resolve())


def data_of(root: Path, cache: Path) -> config.Data:
    """Settings for such a tree: its many equal pictures stay in."""
    return config.Data(root=str(root), cache=cache, duplicates="keep")


def drain(dataset: Any) -> None:
    """Take all batches and drop them."""
    for _ in dataset:
        pass


def epoch_seconds(
    store: PixelStore, augment: config.Augment | None, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Of one shuffled epoch over the store, no model, from one stream of several as `fit` takes it; None: as it is."""
    from breakhis_cls.pipeline import batches

    n, views = len(store), batches.allowed_views(augment) if augment else (0,)
    rows = batches.TrainingRows(store.array, store.rows, np.zeros((n, 2)), views=views, augment=augment)
    epochs = -(-DRAINED_ROWS // n)
    return seconds(drain, batches.training_batches(rows, BATCH, 0, 0, epochs), clock=clock) / epochs


def all_augmentations() -> config.Augment:
    """Flips, turns, and every spread at SPREAD."""
    spreads = [name for name, field in config.Augment.model_fields.items() if isinstance(field.default, float)]
    return config.Augment().model_copy(update=dict.fromkeys(spreads, SPREAD))


def pipeline_rates(store: PixelStore, rounds: int) -> dict[str, float]:
    """Images that one core brings from the store to a batch in a second, by what is done to them on the way."""
    n, core_seconds = len(store), time.process_time
    copy = [slice(at, at + BATCH) for at in range(0, n, BATCH)] * -(-DRAINED_ROWS // n)
    buffer = np.empty((BATCH, *store.array.shape[1:]), np.uint8)  # one for all: a new one would cost its page faults
    works: dict[str, Callable[[int], float]] = {
        "memory_copy": lambda _: (
            seconds(lambda: [_copied(store.array[part], buffer) for part in copy], clock=core_seconds)
            / (len(copy) * BATCH / n)
        ),
        "as_it_is": lambda _: epoch_seconds(store, None, core_seconds),
        "flips_and_turns": lambda _: epoch_seconds(store, config.Augment(), core_seconds),
        "all_augmentations": lambda _: epoch_seconds(store, all_augmentations(), core_seconds),
    }
    return {name: n / float(np.median(spent)) for name, spent in in_turns(works, rounds).items()}


def _copied(batch: np.ndarray, buffer: np.ndarray) -> None:
    np.copyto(buffer[: len(batch)], batch)


def growth(
    base: int, extracted: int, image: config.Image, pictures: Sequence[Path], forward: Callable, scratch: Path
) -> dict[str, dict[int, float]]:
    """Seconds at 1, 2, 4 and 8 times `base` rows, by stage; extraction at as many times `extracted` (0: not at all)."""
    from breakhis_cls.modeling import features

    found: dict[str, dict[int, float]] = {"index": {}, "store": {}, "epoch": {}, "extraction": {}}
    for factor in FACTORS:
        n, folder = factor * base, scratch / f"growth-{factor}"
        data = data_of(linked(folder / "tree", official(n), pictures), folder / "cache")
        found["index"][n] = seconds(index.load_images, data)
        of_store = index.load_images(data), index.find_root(data), image, data.cache
        found["store"][n] = seconds(PixelStore.open, *of_store)
        store = PixelStore.open(*of_store)
        found["epoch"][n] = epoch_seconds(store, None)
        rows = np.arange(factor * extracted)
        if extracted:
            given = lambda: forward, hashes(len(rows)), store.array, rows % len(store), folder / "features"
            found["extraction"][len(rows)] = seconds(features.cached_outputs, *given)
    return {stage: times for stage, times in found.items() if times}


def hashes(n: int) -> np.ndarray:
    """(n,) names as of pixels that all differ, so that none is spared as known."""
    return np.array([f"{at:064x}" for at in range(n)])


def memory(n: int, image: config.Image, scratch: Path) -> dict[str, float]:
    """GB of anonymous memory at most beyond the start's, to index n images, build their store, and begin an epoch.

    The images are tiny, since what grows with a set are its tables; the epoch runs over a map of the real size, a file
    with nothing in it. Linux only: elsewhere empty.
    """
    if not Path("/proc/self/status").is_file():
        return {}
    tiny, picture = config.Image(height_px=8, width_px=12), scratch / "tiny.png"
    scratch.mkdir()
    Picture.new("RGB", (24, 16), "white").save(picture)
    data = data_of(linked(scratch / "tree", official(n), [picture]), scratch / "cache")
    with _peak_anonymous() as peaks:
        images = index.load_images(data)
        store = PixelStore.open(images, index.find_root(data), tiny, data.cache)
        peaks["index_and_store_gb"] = peaks.pop("gb")
        path, shape = scratch / "map", (n, image.height_px, image.width_px, 3)
        array = np.memmap(path, np.uint8, "w+", shape=shape)
        _begin_epoch(PixelStore(array, store.rows, store.key, path))
    return {"rows": n, "index_and_store_gb": peaks["index_and_store_gb"], "epoch_gb": peaks["gb"]}


def _begin_epoch(store: PixelStore) -> None:
    from breakhis_cls.pipeline import batches

    augment = config.Augment()
    rows = batches.TrainingRows(
        store.array, store.rows, np.zeros((len(store), 2)), views=batches.allowed_views(augment), augment=augment
    )
    drain(batches.training_batches(rows, BATCH, 0, 0, 1).take(DRAINED_ROWS // BATCH))


@contextmanager
def _peak_anonymous() -> Iterator[dict[str, float]]:
    """A dict whose `gb` is the highest anonymous memory so far beyond that of the start; pop it to begin anew."""
    before, peaks, ended = _anonymous_gb(), {"gb": 0.0}, threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peaks["gb"] = max(peaks.get("gb", 0.0), _anonymous_gb() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peaks
    finally:
        ended.set()
        watcher.join()
        peaks.setdefault("gb", 0.0)


def _anonymous_gb() -> float:
    """This process's memory that is no file's (proc(5): RssAnon)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024 / 1e9
