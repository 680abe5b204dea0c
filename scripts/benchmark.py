"""What the package's ways cost beside stock Keras's, and beside the bare limit: ratios, side by side in one run.

python scripts/benchmark.py [--quick] [--data.root DIR] [--json FILE]
Offline: random weights cost the same time as trained ones. Caches are made in a temporary folder and start cold.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from breakhis_cls import config, names
from breakhis_cls.data import index
from breakhis_cls.data.material import Material, gather
from breakhis_cls.data.pixels import PixelStore
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.files import write_json
from breakhis_cls.modeling import devices

HEAD_EPOCHS, N_FOLDS, BATCH = 30, 5, 32


class Benchmark(config.Section):
    """What is measured."""

    data: config.Data = config.Data(root="synthetic", magnifications=(200,))
    quick: bool = False
    """Fewer images and repeats: under 60 s, and rougher."""
    json_file: Path | None = None
    """Where the figures go, as JSON (--json FILE)."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Measure the four ratios and print them as one table."""
    argv = [{"--quick": "--quick=True", "--json": "--json_file"}.get(word, word) for word in argv or sys.argv[1:]]
    given = config.parse(Benchmark, argv, "benchmark", __doc__ or "")
    devices.prepare(deterministic=False)  # stock Keras gets TensorFlow as it comes, and so do we
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(given, Path(scratch))
    _print(figures)
    if given.json_file:
        write_json(given.json_file, figures)
    return DONE


def measure(given: Benchmark, scratch: Path) -> dict[str, Any]:
    """All figures: machine, and under each contract name a ratio with what it was made of."""
    settings = config.Config(
        name="benchmark",
        data=given.data.model_copy(update={"cache": scratch / "cache"}),
        model=config.Model(weights="random"),
        head=config.Head(epochs=HEAD_EPOCHS, patience=HEAD_EPOCHS),
        tune=config.Tune(part="none"),
        run=config.Run(dir=scratch / "runs", reports=scratch / "reports", deterministic=False),
    )
    material = gather(settings)
    n = min(len(material.images), 96 if given.quick else 1_000)
    figures: dict[str, Any] = {"machine": _machine(), "quick": given.quick, "data": material.name, "n_images": n}
    figures["index_vs_decode"] = _index(material, scratch, 400 if given.quick else names.N_IMAGES)
    figures["epoch_vs_stock_keras"] = _epoch(settings, material, n, 2 if given.quick else 3)
    figures["extraction_vs_forward"] = _extraction(settings, material, n)
    figures["protocol_vs_stock_keras"] = _protocol(settings, material, n)
    return figures


def _index(material: Material, scratch: Path, n: int) -> dict[str, Any]:
    """Seconds to index a tree of n images over seconds to decode the same files; files are hard links, read warm."""
    sources = [material.root / file for file in material.images["file"]]
    root = scratch / "tree"
    for at, name in enumerate(_official_files()[:n]):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _link(sources[at % len(sources)], path)
    files = sorted(root.rglob("*.png"))
    data = config.Data(root=str(root), cache=scratch / "index-cache", magnifications=names.MAGNIFICATIONS)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_decoded, files[:200]))  # warm
        decode_s = _seconds(lambda: sum(pool.map(_decoded, files)))
    index_s = _seconds(lambda: index.load(data))
    return {"ratio": index_s / decode_s, "index_s": index_s, "decode_s": decode_s, "n_images": len(files)}


def _epoch(settings: config.Config, material: Material, n: int, repeats: int) -> dict[str, Any]:
    """Stock Keras's epoch over the PNG files at the same size, over ours from the store, shuffled, with all views."""
    import keras

    from breakhis_cls.data import pipeline

    store = PixelStore.open(material.images[:n], material.root, settings.image, settings.data.cache)
    rows = pipeline.Rows(store.array, store.rows, np.zeros((n, 2)), views=pipeline.ALL_VIEWS)
    plain = pipeline.Rows(store.array, store.rows, np.zeros((n, 2)))
    folder = _classes_folder(material, n, settings.data.cache / "classes")
    size = settings.image.height_px, settings.image.width_px
    stock = keras.utils.image_dataset_from_directory(folder, image_size=size, batch_size=BATCH, verbose=False)
    epochs = {
        "stock": lambda: _drain(stock),
        "store": lambda: _drain(pipeline.training(plain, BATCH, 0, 0, 1)),
        "store_with_views": lambda: _drain(pipeline.training(rows, BATCH, 0, 0, 1)),
        "copy": lambda: [np.array(store.array[at : at + BATCH]) for at in range(0, n, BATCH)],
    }
    seconds = {name: statistics.median(_seconds(run) for _ in range(repeats)) for name, run in epochs.items()}
    rates = {f"{name}_images_per_s": n / spent for name, spent in seconds.items()}
    with_views = seconds["stock"] / seconds["store_with_views"]
    return {"ratio": seconds["stock"] / seconds["store"], "ratio_with_views": with_views, "n_images": n} | rates


def _extraction(settings: config.Config, material: Material, n: int) -> dict[str, Any]:
    """Rate from PNG files on a cold store over the rate of the bare forward pass on a tensor in memory."""
    import tensorflow as tf

    from breakhis_cls.modeling import features, resnet

    backbone = resnet.build_backbone(settings.model, features.ALL_BLOCKS)
    forward = features.compiled(backbone)
    batch = tf.zeros((BATCH, settings.image.height_px, settings.image.width_px, 3), tf.uint8)
    forward(batch)  # trace
    images, cold = material.images[:n], settings.data.cache / "cold"
    repeats = max(n // BATCH // 2, 1)
    before_s = _seconds(lambda: [forward(batch).numpy() for _ in range(repeats)])
    started = time.perf_counter()
    store = PixelStore.open(images, material.root, settings.image, cold)
    decode_s = time.perf_counter() - started
    hashes = np.array([f"{at:064x}" for at in range(n)])  # every row is a new one, duplicates too
    features.outputs(lambda: forward, hashes, store.array, store.rows, cold / "features")
    ours_s = time.perf_counter() - started
    after_s = _seconds(lambda: [forward(batch).numpy() for _ in range(repeats)])  # machines drift
    bare = 2 * repeats * BATCH / (before_s + after_s)
    return {
        "ratio": n / ours_s / bare, "images_per_s": n / ours_s, "bare_images_per_s": bare,
        "decoding_share": decode_s / ours_s, "n_images": n,
    }  # fmt: skip


def _protocol(settings: config.Config, material: Material, n: int) -> dict[str, Any]:
    """Stock Keras's seconds for five folds of a head on a frozen backbone, over ours from nothing and from warm caches.

    Stock Keras's one training epoch and one validation pass are measured on n images and scaled up to the protocol.
    """
    import keras

    from breakhis_cls.train import train

    folds = [settings.model_copy(update={"split": config.Split(fold=fold)}) for fold in range(N_FOLDS)]
    cold_s = _seconds(lambda: [train(fold, report=False) for fold in folds])
    warm = [
        fold.model_copy(update={"run": fold.run.model_copy(update={"dir": fold.run.dir / "warm"})}) for fold in folds
    ]
    warm_s = _seconds(lambda: [train(fold, report=False) for fold in warm])
    model = _stock_model(settings)
    folder = _classes_folder(material, n, settings.data.cache / "classes")
    size = settings.image.height_px, settings.image.width_px
    data = keras.utils.image_dataset_from_directory(folder, image_size=size, batch_size=BATCH, verbose=False)
    model.fit(data.take(1), verbose=0)  # trace
    epoch_s = _seconds(lambda: model.fit(data, verbose=0)) / n  # an image; training and validation both pass forward
    n_seen = HEAD_EPOCHS * 0.8 * len(material.images) + 0.2 * len(material.images)  # train and validation, then test
    stock_s = N_FOLDS * n_seen * epoch_s
    return {
        "ratio": stock_s / cold_s, "ratio_warm": stock_s / warm_s, "cold_s": cold_s, "warm_s": warm_s,
        "stock_s_extrapolated": stock_s, "stock_ms_per_image": 1_000 * epoch_s, "n_images": len(material.images),
    }  # fmt: skip


def _stock_model(settings: config.Config) -> Any:
    """The way of Keras's own transfer-learning guide."""
    import keras

    base = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
    base.trainable = False
    image = keras.Input((settings.image.height_px, settings.image.width_px, 3))
    pooled = base(keras.applications.resnet50.preprocess_input(image), training=False)
    model = keras.Model(image, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.2)(pooled)))
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


def _classes_folder(material: Material, n: int, folder: Path) -> Path:
    """The layout that image_dataset_from_directory reads: one folder a class."""
    for file, label in zip(material.images["file"][:n], material.images["label"][:n], strict=True):
        path = folder / label / Path(file).name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _link(material.root / file, path)
    return folder


def _link(source: Path, path: Path) -> None:
    try:
        path.hardlink_to(source)
    except OSError:  # another file system
        path.symlink_to(source.resolve())


def _official_files() -> list[str]:
    from breakhis_cls.data import splits

    return splits.official_images()["file"].tolist()


def _decoded(path: Path) -> int:
    return index.decode(path).shape[0]


def _drain(dataset: Any) -> None:
    for _ in dataset:
        pass


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), platform.machine()
    )
    return f"{os.cpu_count()} cores, {model}, {', '.join(devices.names())}"


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _print(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures['machine']}; {figures['data']}, {figures['n_images']} images", title_justify="left")
    for column in ("claim", "ratio", "from"):
        table.add_column(column, overflow="fold")
    for name, found in figures.items():
        if isinstance(found, dict):
            parts = ", ".join(f"{key} {_short(value)}" for key, value in found.items() if key != "ratio")
            table.add_row(name, _short(found["ratio"]), parts)
    Console().print(table)


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else json.dumps(float(f"{value:.3g}"))


if __name__ == "__main__":
    sys.exit(main())
