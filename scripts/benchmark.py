"""What the package's ways cost beside stock Keras's and beside the bare limit: ratios, side by side in one run.

python scripts/benchmark.py [--quick] [--data.root DIR] [--json FILE]     under 10 minutes on 2 cores; --quick under 1
Offline: random weights cost the same time as trained ones. All caches are made in a temporary folder and start cold.
The protocol is measured on `data.root`; all else on drawn 700x460 tissue under official names, hard links to a few
pictures. Table, JSON, Markdown and figure go to the folder of the JSON file.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import benchmark_page as page
import benchmark_parts as parts
import numpy as np
import tyro
from benchmark_parts import BATCH, in_turns, seconds
from PIL import Image

from breakhis_cls import config, names
from breakhis_cls.data import index
from breakhis_cls.data.dataset import Dataset, load_dataset
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.modeling import devices
from breakhis_cls.parallel import count_cores
from breakhis_cls.pipeline.pixel_store import PixelStore
from breakhis_cls.synthetic import tree

HEAD_EPOCHS, N_FOLDS = 30, 5
TRAINED_SHARE, VALIDATED_SHARE, TESTED_SHARE = 0.64, 0.16, 0.2  # of the images, in a fold of the protocol `case`


class Sizes(NamedTuple):
    """How much is measured."""

    rounds: int  # of what takes turns
    slides: int  # that are drawn, each at four magnifications
    indexed: int
    epoch: int
    extracted: int
    protocol: int  # images of the drawn set; a data.root of one's own is taken whole, but by --quick
    folds: int  # of N_FOLDS
    stock: int  # images of one measured epoch of stock Keras
    grown: tuple[int, int]  # rows at 1x of index, store and epoch, and of extraction
    remembered: int  # rows of the set whose memory is measured
    image: config.Image = config.Image()


FULL = Sizes(3, 6, names.N_IMAGES, 384, 128, 628, N_FOLDS, 256, (240, 32), 10 * names.N_IMAGES)
QUICK = Sizes(1, 2, 400, 64, 32, 48, 1, 32, (16, 0), 1_000)


class Benchmark(config.Section):
    """What is measured."""

    data: config.Data = config.Data(root="synthetic", magnifications=(200,))
    quick: bool = False
    """Fewer images, folds and rounds: under 60 s on 2 cores, and rougher."""
    json_file: Annotated[Path, tyro.conf.arg(name="json")] = Path("reports/benchmark/benchmark.json")
    """Where the figures go; table (.md) and figure (.png, .svg) lie beside it."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Measure, write and print."""
    words = list(sys.argv[1:] if argv is None else argv)
    given = config.parse_settings(
        Benchmark, [{"--quick": "--quick=True"}.get(word, word) for word in words], "benchmark", ""
    )
    warnings.filterwarnings("ignore", ".*of BreakHis's", UserWarning)  # parts of the set are meant
    devices.prepare(deterministic=False)  # stock Keras gets TensorFlow as it comes, and so do we
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(given, QUICK if given.quick else FULL, Path(scratch))
    page.write(figures, given.json_file)
    page.show(figures)
    print(f"{given.json_file.with_suffix('.md')} and .json, .png, .svg beside it")
    return DONE


def measure(given: Benchmark, sizes: Sizes, scratch: Path) -> dict[str, Any]:
    """All figures: machine, the four claims, and what explains them."""
    started = time.monotonic()
    found: dict[str, Any] = {"machine": _machine(), "image": sizes.image.model_dump()}
    pictures = sorted(_drawn(sizes, scratch).rglob("*.png"))
    forward = _forward()
    steps: dict[str, Callable[[Path], dict[str, Any]]] = {
        "memory": lambda folder: {"memory": parts.memory(sizes.remembered, sizes.image, folder)},
        "index": lambda folder: {"index_vs_decode": _index(sizes, pictures, folder)},
        "extraction": lambda folder: {"extraction_vs_forward": _extraction(sizes, pictures, forward, folder)},
        "epoch": lambda folder: _epochs(sizes, pictures, folder),
        "protocol": lambda folder: {"protocol_vs_stock_keras": _protocol(given, sizes, pictures, folder)},
        "growth": lambda folder: {"growth": parts.growth(*sizes.grown, sizes.image, pictures, forward, folder)},
    }
    for name, step in steps.items():
        print(f"{time.monotonic() - started:.0f} s ({time.process_time():.0f} core-seconds): {name}", file=sys.stderr)
        found |= step(scratch / name)
    spent = round(time.monotonic() - started)
    return {"date": time.strftime("%Y-%m-%d"), "seconds": spent, "quick": given.quick} | found


def _drawn(sizes: Sizes, scratch: Path) -> Path:
    step = len(tree.SLIDES) // sizes.slides
    return tree.write_tree(scratch / "drawn", images_per_cell=1, slides=tree.SLIDES[::step])


def _index(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Seconds to index a whole tree, over seconds to decode as many PNGs in memory by bare Pillow on all cores.

    Half of the bare decoding goes before and half after, so that a drift of the machine cancels.
    """
    raws = [picture.read_bytes() for picture in pictures]
    data = parts.data_of(parts.linked(scratch / "tree", parts.official(sizes.indexed), pictures), scratch / "cache")
    with ThreadPoolExecutor(count_cores()) as pool:

        def decode(n: int) -> None:
            for _ in pool.map(lambda at: _decoded(raws[at % len(raws)]), range(n)):
                pass

        before_s = seconds(decode, sizes.indexed // 2)
        index_s = seconds(index.load_images, data)
        decode_s = before_s + seconds(decode, sizes.indexed - sizes.indexed // 2)
    again_s = seconds(index.load_images, data)
    return {
        "ratio": index_s / decode_s, "index_s": index_s, "decode_s": decode_s, "again_s": again_s,
        "n_images": sizes.indexed,
    }  # fmt: skip


def _decoded(raw: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(raw)) as picture:
        return np.asarray(picture.convert("RGB"))


def _forward() -> Callable:
    """The frozen backbone as extraction runs it."""
    from breakhis_cls.modeling import features, network

    return features.compile_forward(network.build_backbone(config.Model(weights="random"), features.ALL_BLOCKS))


def _extraction(sizes: Sizes, pictures: list[Path], forward: Callable, scratch: Path) -> dict[str, Any]:
    """Rate from PNG files over a cold store and no features, over that of the bare forward pass on a tensor."""
    import tensorflow as tf

    from breakhis_cls.modeling import features

    n, shape = sizes.extracted, (features.BATCH_SIZE, sizes.image.height_px, sizes.image.width_px, 3)
    batch = tf.cast(tf.random.stateless_uniform(shape, (0, 0), 0, 256, tf.int32), tf.uint8)
    forward(batch)  # traces
    data = parts.data_of(parts.linked(scratch / "tree", parts.official(n), pictures), scratch / "index")
    images, root = index.load_images(data), index.find_root(data)

    def store(at: int) -> PixelStore:
        return PixelStore.open(images, root, sizes.image, scratch / f"cold-{at}")

    def extract(at: int, kept: PixelStore) -> None:
        features.cached_outputs(lambda: forward, parts.hashes(n), kept.array, kept.rows, scratch / f"features-{at}")

    spent = in_turns(
        {
            "forward": lambda _: seconds(lambda: [forward(batch).numpy() for _ in range(n // len(batch))]),
            "store": lambda at: seconds(store, at),
            "features": lambda at: seconds(extract, at, store(at)),
        },
        sizes.rounds,
    )
    ours = spent["store"] + spent["features"]
    bare = spent["forward"] * n / (n // len(batch) * len(batch))
    return {
        "ratio": _median(bare / ours), "images_per_s": _median(n / ours), "bare_images_per_s": _median(n / bare),
        "decoding_share": _median(spent["store"] / ours), "n_images": n,
    }  # fmt: skip


def _epochs(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, dict[str, Any]]:
    """Stock Keras's epoch over 700x460 PNGs at the same output size, over ours from the store, both shuffled and
    without a model; and what one core of the pipeline delivers."""
    n = sizes.epoch
    data = parts.data_of(parts.linked(scratch / "tree", parts.official(n), pictures), scratch / "cache")
    images, root = index.load_images(data), index.find_root(data)
    store = PixelStore.open(images, root, sizes.image, data.cache)
    stock = _stock_dataset(scratch / "classes", images, root, sizes.image)
    spent = in_turns(
        {
            "stock": lambda _: seconds(parts.drain, stock),
            "store": lambda _: parts.epoch_seconds(store, None),
            "with_views": lambda _: parts.epoch_seconds(store, config.Augment()),
            "with_all": lambda _: parts.epoch_seconds(store, parts.all_augmentations()),
        },
        1 + sizes.rounds,
    )
    ratios = {name: _median(spent["stock"] / spent[name]) for name in spent}
    claim = {
        "ratio": ratios["store"], "ratio_with_views": ratios["with_views"], "ratio_with_all": ratios["with_all"],
        "stock_images_per_s": _median(n / spent["stock"]), "store_images_per_s": _median(n / spent["store"]),
        "n_images": n,
    }  # fmt: skip
    rates = {"core_images_per_s": parts.pipeline_rates(store, sizes.rounds), "spread": parts.SPREAD, "n_images": n}
    return {"epoch_vs_stock_keras": claim, "pipeline": rates}


def _protocol(given: Benchmark, sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Stock Keras's seconds for the folds of a head on a frozen backbone, over ours from nothing and from warm caches.

    Stock Keras's seconds an image are measured in one epoch, half before and half after ours, and scaled up: a pass
    over training and validation images in each epoch, and one over the test images.
    """
    settings = _settings(given, sizes, pictures, scratch)
    material = load_dataset(settings)
    n, fit = len(material.images), _stock_fit(material, sizes, settings.image, scratch / "classes")
    before_s = fit()
    cold_s = seconds(_train, settings, sizes.folds, scratch / "cold")  # the index, too, is made again there
    warm_s = seconds(_train, settings, sizes.folds, scratch / "cold", "again")
    image_s = (before_s + fit()) / 2
    stock_s = sizes.folds * n * image_s * (HEAD_EPOCHS * (TRAINED_SHARE + VALIDATED_SHARE) + TESTED_SHARE)
    return {
        "ratio": stock_s / cold_s, "ratio_warm": stock_s / warm_s, "cold_s": cold_s, "warm_s": warm_s,
        "stock_s_extrapolated": stock_s, "stock_ms_per_image": 1_000 * image_s, "n_folds": sizes.folds,
        "n_images": n, "data": material.name if given.data.root != "synthetic" else "synthetic tissue, official names",
    }  # fmt: skip


def _settings(given: Benchmark, sizes: Sizes, pictures: list[Path], scratch: Path) -> config.Config:
    """The experiment that both do, on data.root or on drawn images; --quick takes some of them alone."""
    data = given.data.model_copy(update={"cache": scratch / "cache", "duplicates": "keep"})
    if data.root == "synthetic":
        files, sources = parts.official(sizes.protocol, data.magnifications), pictures
        data = data.model_copy(update={"root": str(parts.linked(scratch / "tree", files, sources))})
    elif given.quick:
        data = data.model_copy(update={"root": str(_few(data, sizes.protocol, scratch / "tree"))})
    return config.Config(
        name="benchmark",
        data=data,
        image=sizes.image,
        model=config.Model(weights="random"),
        head=config.Head(epochs=HEAD_EPOCHS, patience=HEAD_EPOCHS),
        tune=config.Tune(part="none"),
        run=config.Run(reports=scratch / "reports", deterministic=False),
    )


def _few(data: config.Data, n: int, folder: Path) -> Path:
    """n images of a data set, evenly over its slides, as a tree of links."""
    root, named = index.find_root(data), index.list_images(data)
    for file in named["file"].iloc[np.linspace(0, len(named) - 1, min(n, len(named))).astype(int)]:
        parts.link(root / file, folder / file)
    return folder


def _train(settings: config.Config, n_folds: int, folder: Path, runs: str = "runs") -> None:
    """All folds, by the package's own command; a folder that is new starts from nothing."""
    from breakhis_cls.train import train_run

    data = settings.data.model_copy(update={"cache": folder / "cache"})
    run = settings.run.model_copy(update={"dir": folder / runs})
    for fold in range(n_folds):
        train_run(
            settings.model_copy(update={"data": data, "run": run, "split": config.Split(fold=fold)}), report=False
        )


def _stock_fit(material: Dataset, sizes: Sizes, image: config.Image, folder: Path) -> Callable[[], float]:
    """A function that trains half of the measured epoch by stock Keras, and gives its seconds an image."""
    chosen = np.linspace(0, len(material.images) - 1, min(sizes.stock, len(material.images)) // 2).astype(int)
    dataset = _stock_dataset(folder, material.images.iloc[chosen], material.root, image)
    model = _stock_model(image)
    model.fit(dataset.take(1), shuffle=False, verbose=0)  # traces; the dataset shuffles itself
    return lambda: seconds(lambda: model.fit(dataset, shuffle=False, verbose=0)) / len(chosen)


def _stock_model(image: config.Image) -> Any:
    """The way of Keras's own transfer-learning guide: a frozen base inside the model that `fit` trains."""
    import keras

    base = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
    base.trainable = False
    pixels = keras.Input((image.height_px, image.width_px, 3))
    pooled = base(keras.applications.resnet50.preprocess_input(pixels), training=False)
    model = keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.2)(pooled)))
    model.compile(optimizer="adam", loss="binary_crossentropy")
    return model


def _stock_dataset(folder: Path, images: Any, root: Path, image: config.Image) -> Any:
    """What image_dataset_from_directory makes of these images: one folder a class, shuffled by a buffer."""
    import keras

    for file, label in zip(images["file"], images["label"], strict=True):
        parts.link(root / file, folder / label / Path(file).name)
    size = image.height_px, image.width_px
    return keras.utils.image_dataset_from_directory(folder, image_size=size, batch_size=BATCH, verbose=False)


def _median(found: np.ndarray) -> float:
    return float(np.median(found))


def _machine() -> dict[str, Any]:
    """What it was measured on, and how busy that was before."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    found = devices.environment()
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": count_cores(),
        "devices": found["devices"],
        "load": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "versions": found["versions"],
    }


if __name__ == "__main__":
    sys.exit(main())
