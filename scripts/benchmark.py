"""How fast the package is compared with stock Keras and with lower bounds: ratios, measured alternately in one run.

python scripts/benchmark.py [--quick] [--data.root DIR] [--json FILE]     under 10 minutes on 2 cores; --quick under 1
Runs offline with random weights, which cost the same time as trained ones, from cold caches in a temporary folder. The
protocol is measured on `data.root`, the rest on synthetic tissue under official names. A table (.md) and a figure lie
beside the JSON file.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro
from PIL import Image

from breakhis_cls import config, names
from breakhis_cls.data import index, protocols
from breakhis_cls.data.dataset import load_dataset
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.files import write_json, write_text
from breakhis_cls.modeling import devices
from breakhis_cls.parallel import count_cores
from breakhis_cls.pipeline.pixel_store import PixelStore
from breakhis_cls.synthetic import tree

BATCH_SIZE, HEAD_EPOCHS = 32, 30
TRAIN_SHARE, VALIDATION_SHARE, TEST_SHARE = 0.64, 0.16, 0.2  # of the images, in a fold of the protocol `case`


class Claim(NamedTuple):
    """A ratio, its limit, and the cells of `found` that explain it."""

    title: str
    limit: float
    measured: str
    at_least: bool = True

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is on the right side of the limit."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit


CLAIMS = {
    "extraction_vs_forward": Claim(
        "Feature extraction from PNG files, rate over that of the bare forward pass", 0.9,
        "{images_per_s:.1f} of {bare_images_per_s:.1f} images/s; decoding, resizing and storing take "
        "{decoding_share:.1%} of the time; {n_images:,} images"),
    "protocol_vs_stock_keras": Claim(
        "Folds of a head on a frozen backbone from cold caches, faster than stock Keras", 50,
        "{cold_s:.1f} s instead of {stock_s_extrapolated:,.0f} s, extrapolated from one epoch at "
        "{stock_ms_per_image:.0f} ms an image; {warm_s:.1f} s from warm caches ({ratio_warm:,.0f}x); folds: {n_folds}, "
        "30 epochs, {n_images:,} images ({data})"),
    "epoch_vs_stock_keras": Claim(
        "Epoch over the pixel store without a model, faster than image_dataset_from_directory", 20,
        "{store_images_per_s:,.0f} instead of {stock_images_per_s:,.0f} images/s; with flips and turns "
        "{ratio_with_views:.1f}x, with all augmentations {ratio_with_all:.1f}x; {n_images:,} PNGs of 700x460"),
    "index_vs_decode": Claim(
        "Index with hashes, time over that of bare decoding on all cores", 1.3,
        "{index_s:.1f} s instead of {decode_s:.1f} s; {again_s:.2f} s the second time; {n_images:,} PNGs of 700x460",
        at_least=False),
}  # fmt: skip


class Sizes(NamedTuple):
    """How much is measured, in images."""

    rounds: int  # of what is measured alternately
    slides: int  # that are drawn, each at four magnifications
    indexed: int
    epoch: int
    extracted: int
    protocol: int  # of the synthetic set; a data.root is taken whole, except by --quick
    folds: int
    stock: int  # in one measured epoch of stock Keras
    image: config.Image = config.Image()


FULL = Sizes(3, 6, names.N_IMAGES, 384, 128, 628, 5, 256)
QUICK = Sizes(1, 2, 400, 64, 32, 48, 1, 32)


class Benchmark(config.Section):
    """What is measured."""

    data: config.Data = config.Data(root="synthetic", magnifications=(200,))
    quick: bool = False
    """Fewer images, folds and rounds: under 60 s on 2 cores, and less precise."""
    json_file: Annotated[Path, tyro.conf.arg(name="json")] = Path("reports/benchmark/benchmark.json")
    """Where the numbers go; table (.md) and figure (.png, .svg) lie beside it."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Measure, write and print."""
    asked = config.parse_arguments(Benchmark, argv, "benchmark", "Compare the package's speed with stock Keras's.")
    warnings.filterwarnings("ignore", ".*of BreakHis's", UserWarning)  # a part of the set is meant
    devices.prepare(deterministic=False)  # stock Keras gets TensorFlow's defaults, and so does the package
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(asked, QUICK if asked.quick else FULL, Path(scratch))
    write_results(found, asked.json_file)
    for key, claim in CLAIMS.items():
        ratio, sign = found[key]["ratio"], ">=" if claim.at_least else "<="
        verdict = "holds" if claim.holds(ratio) else "DOES NOT HOLD"
        print(f"{claim.title}: {ratio:.3g} ({sign} {claim.limit:g} {verdict})\n  {claim.measured.format(**found[key])}")
    print(f"{asked.json_file.with_suffix('.md')} and .json, .png, .svg beside it")
    return DONE


def measure(asked: Benchmark, sizes: Sizes, scratch: Path) -> dict[str, Any]:
    """The four claims by key, and where and when they were measured."""
    started = time.monotonic()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    processors = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    environment = devices.environment()
    machine = {
        "processor": (processors or [platform.machine()])[0], "cores": count_cores(), "system": platform.system(),
        "load": round(os.getloadavg()[0], 1), "devices": environment["devices"], "versions": environment["versions"],
    }  # fmt: skip
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "quick": asked.quick, "machine": machine}
    found["image"] = sizes.image.model_dump()
    drawn = tree.write_tree(
        scratch / "drawn", images_per_cell=1, slides=tree.SLIDES[:: len(tree.SLIDES) // sizes.slides]
    )
    pictures = sorted(drawn.rglob("*.png"))
    steps: dict[str, Callable[[Path], dict[str, Any]]] = {
        "index_vs_decode": lambda folder: measure_index(sizes, pictures, folder),
        "extraction_vs_forward": lambda folder: measure_extraction(sizes, pictures, folder),
        "epoch_vs_stock_keras": lambda folder: measure_epoch(sizes, pictures, folder),
        "protocol_vs_stock_keras": lambda folder: measure_protocol(asked, sizes, pictures, folder),
    }
    for at, (key, step) in enumerate(steps.items(), start=1):
        print(f"{time.monotonic() - started:4.0f} s: {at} of {len(steps)}, {CLAIMS[key].title}", file=sys.stderr)
        found[key] = step(scratch / key)
    return found | {"seconds": round(time.monotonic() - started)}


def measure_index(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Seconds to index a tree, over seconds to decode as many PNGs in memory by Pillow on all cores."""
    raws = [picture.read_bytes() for picture in pictures]
    data = linked_data(scratch, official_files(sizes.indexed), pictures)

    def decode(at: int) -> None:
        with Image.open(io.BytesIO(raws[at % len(raws)])) as picture:
            np.asarray(picture.convert("RGB"))

    with ThreadPoolExecutor(count_cores()) as pool:
        # Half of the decoding goes before and half after, so that a drift of the machine cancels.
        half = sizes.indexed // 2
        decode_s = seconds(lambda: list(pool.map(decode, range(half))))
        index_s = seconds(lambda: index.load_images(data))
        decode_s += seconds(lambda: list(pool.map(decode, range(half, sizes.indexed))))
    again_s = seconds(lambda: index.load_images(data))
    ratio = index_s / decode_s
    return {"ratio": ratio, "index_s": index_s, "decode_s": decode_s, "again_s": again_s, "n_images": sizes.indexed}


def measure_extraction(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Rate from PNG files, with neither store nor features yet, over that of the forward pass on a tensor."""
    import tensorflow as tf

    from breakhis_cls.modeling import features, network

    n, shape = sizes.extracted, (features.BATCH_SIZE, sizes.image.height_px, sizes.image.width_px, 3)
    forward = features.compile_forward(network.build_backbone(config.Model(weights="random"), features.ALL_BLOCKS))
    batch = tf.cast(tf.random.stateless_uniform(shape, (0, 0), 0, 256, tf.int32), tf.uint8)
    forward(batch)  # traces the graph
    data = linked_data(scratch, official_files(n), pictures)
    images, root = index.load_images(data), index.find_root(data)
    hashes = np.array([f"{at:064x}" for at in range(n)])  # all differ: none is spared as known

    def store(at: int) -> PixelStore:
        return PixelStore.open(images, root, sizes.image, scratch / f"cold-{at}")

    def extract(at: int, store: PixelStore) -> None:
        features.cached_outputs(lambda: forward, hashes, store.array, store.rows, scratch / f"features-{at}")

    spent = measure_in_turns(
        {
            "forward": lambda _: seconds(lambda: [forward(batch).numpy() for _ in range(n // len(batch))]),
            "store": lambda at: seconds(lambda: store(at)),
            "features": lambda at: (lambda kept: seconds(lambda: extract(at, kept)))(store(at)),
        },
        sizes.rounds,
    )
    ours = spent["store"] + spent["features"]
    bare = spent["forward"] * n / (n // len(batch) * len(batch))
    return {
        "ratio": median(bare / ours), "images_per_s": median(n / ours), "bare_images_per_s": median(n / bare),
        "decoding_share": median(spent["store"] / ours), "n_images": n,
    }  # fmt: skip


def measure_epoch(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Stock Keras's epoch over PNG files at the same output size, over ours from the store; shuffled, no model."""
    from breakhis_cls.pipeline import batches

    n = sizes.epoch
    data = linked_data(scratch, official_files(n), pictures)
    images, root = index.load_images(data), index.find_root(data)
    store = PixelStore.open(images, root, sizes.image, data.cache)
    stock = stock_dataset(scratch / "classes", images, root, sizes.image)
    n_epochs = -(-500 // n)  # at least 500 rows, else the start of the pipeline would count

    def epoch_s(augment: config.Augment | None) -> float:
        views = batches.allowed_views(augment) if augment else (0,)
        rows = batches.TrainingRows(store.array, store.rows, np.zeros((n, 2)), views=views, augment=augment)
        return seconds(lambda: drain(batches.training_batches(rows, BATCH_SIZE, 0, 0, n_epochs))) / n_epochs

    everything = config.Augment(stain=0.1, scale=0.1, contrast=0.1, brightness=0.1)
    spent = measure_in_turns(
        {
            "stock": lambda _: seconds(lambda: drain(stock)),
            "store": lambda _: epoch_s(None),
            "with_views": lambda _: epoch_s(config.Augment()),
            "with_all": lambda _: epoch_s(everything),
        },
        1 + sizes.rounds,
    )
    ratios = {name: median(spent["stock"] / spent[name]) for name in spent}
    return {
        "ratio": ratios["store"], "ratio_with_views": ratios["with_views"], "ratio_with_all": ratios["with_all"],
        "stock_images_per_s": median(n / spent["stock"]), "store_images_per_s": median(n / spent["store"]),
        "n_images": n,
    }  # fmt: skip


def measure_protocol(asked: Benchmark, sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Stock Keras's seconds for the folds of a head on a frozen backbone, over the package's from cold caches.

    Stock Keras's seconds an image are measured in one epoch, half before and half after the package's runs, and scaled
    up: a pass over training and validation images in each epoch, and one over the test images.
    """
    import keras

    from breakhis_cls.train import train_run

    # --- the data: synthetic tissue, a tree of one's own, or with --quick a part of it, evenly over its slides ---
    data = asked.data.model_copy(update={"cache": scratch / "cache", "duplicates": "keep"})
    if data.root == "synthetic":
        link_tree(scratch / "tree", official_files(sizes.protocol, data.magnifications), pictures)
        data = data.model_copy(update={"root": str(scratch / "tree")})
    elif asked.quick:
        root, listed = index.find_root(data), index.list_images(data)["file"].tolist()
        for at in np.linspace(0, len(listed) - 1, min(sizes.protocol, len(listed))).astype(int):
            link_tree(scratch / "tree", [listed[at]], [root / listed[at]])
        data = data.model_copy(update={"root": str(scratch / "tree")})
    settings = config.Config(
        name="benchmark", data=data, image=sizes.image, model=config.Model(weights="random"),
        head=config.Head(epochs=HEAD_EPOCHS, patience=HEAD_EPOCHS), tune=config.Tune(part="none"),
        run=config.Run(reports=scratch / "reports", deterministic=False),
    )  # fmt: skip
    dataset = load_dataset(settings)
    n = len(dataset.images)

    # --- stock Keras: as its transfer-learning guide, a frozen base inside the model that `fit` trains ---
    n_fitted = min(sizes.stock, n) // 2
    chosen = dataset.images.iloc[np.linspace(0, n - 1, n_fitted).astype(int)]
    stock = stock_dataset(scratch / "classes", chosen, dataset.root, settings.image)
    base = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
    base.trainable = False
    pixels = keras.Input((settings.image.height_px, settings.image.width_px, 3))
    pooled = base(keras.applications.resnet50.preprocess_input(pixels), training=False)
    model = keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.2)(pooled)))
    model.compile(optimizer="adam", loss="binary_crossentropy")
    model.fit(stock.take(1), shuffle=False, verbose=0)  # traces the graph; the dataset shuffles itself

    def stock_image_s() -> float:
        return seconds(lambda: model.fit(stock, shuffle=False, verbose=0)) / n_fitted

    # --- the package: all folds by its own command, from cold caches (the index too), then from warm ones ---
    cold_data = data.model_copy(update={"cache": scratch / "cold" / "cache"})

    def train_folds(runs: str) -> None:
        run = settings.run.model_copy(update={"dir": scratch / "cold" / runs})
        for fold in range(sizes.folds):
            changes = {"data": cold_data, "run": run, "split": config.Split(fold=fold)}
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                train_run(settings.model_copy(update=changes), report=False)  # without its progress bars

    before_s = stock_image_s()
    cold_s = seconds(lambda: train_folds("runs"))
    warm_s = seconds(lambda: train_folds("again"))
    image_s = (before_s + stock_image_s()) / 2
    stock_s = sizes.folds * n * image_s * (HEAD_EPOCHS * (TRAIN_SHARE + VALIDATION_SHARE) + TEST_SHARE)
    return {
        "ratio": stock_s / cold_s, "ratio_warm": stock_s / warm_s, "cold_s": cold_s, "warm_s": warm_s,
        "stock_s_extrapolated": stock_s, "stock_ms_per_image": 1_000 * image_s, "n_folds": sizes.folds, "n_images": n,
        "data": "synthetic tissue" if asked.data.root == "synthetic" else dataset.name,
    }  # fmt: skip


def write_results(found: dict[str, Any], json_file: Path) -> None:
    """JSON, and beside it a Markdown table and a bar for each ratio."""
    from breakhis_cls.reports import plots

    machine = found["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("python", "tensorflow", "keras", "pillow"))
    size = f"{found['image']['height_px']}x{found['image']['width_px']}"
    lines = [
        f"{found['date']}, {machine['cores']} cores of {machine['processor']}, {' '.join(machine['devices'])}, load "
        f"{machine['load']} before; {versions}; {size} pixels, random weights; {found['seconds']} s"
        f"{' (--quick: imprecise, and too few images for the protocol)' * found['quick']}",
        "", "| claim | ratio | required | holds | measured |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for key, claim in CLAIMS.items():
        ratio, sign = found[key]["ratio"], ">=" if claim.at_least else "<="
        holds = "yes" if claim.holds(ratio) else "NO"
        measured = claim.measured.format(**found[key])
        lines.append(f"| {claim.title} | {ratio:.3g} | {sign} {claim.limit:g} | {holds} | {measured} |")
    write_json(json_file, found)
    write_text(json_file.with_suffix(".md"), "\n".join(lines) + "\n")
    plots.save(plot_ratios(found), json_file.parent, json_file.stem)


def plot_ratios(found: dict[str, Any]) -> Any:
    """A bar for each ratio on a log axis, with its limit as a line."""
    from breakhis_cls.reports import plots

    figure, axes = plots.new_figure(plots.PAGE_IN, 2.4)
    ax, places = axes[0, 0], range(len(CLAIMS))
    ratios, limits = [found[key]["ratio"] for key in CLAIMS], [claim.limit for claim in CLAIMS.values()]
    held = [claim.holds(ratio) for claim, ratio in zip(CLAIMS.values(), ratios, strict=True)]
    ax.barh(places, ratios, color=[plots.BLUE if one else plots.VERMILION for one in held], height=0.5)
    ax.plot([limits, limits], [np.array(places) - 0.35, np.array(places) + 0.35], color=plots.BLACK, linewidth=1.5)
    for at, (key, ratio, limit) in enumerate(zip(CLAIMS, ratios, limits, strict=True)):
        sign = "at least" if CLAIMS[key].at_least else "at most"
        ax.annotate(f"{ratio:.3g} ({sign} {limit:g})", (max(ratio, limit), at), (5, 0), textcoords="offset points",
                    va="center", fontsize=8)  # fmt: skip
    ax.set_yticks(places, ["Extraction over forward pass", "Protocol over stock Keras", "Epoch over stock Keras",
                           "Index over decoding"])  # fmt: skip
    ax.set(xscale="log", xlim=(0.1, 6 * max(ratios + limits)), ylim=(len(CLAIMS) - 0.5, -0.5))
    ax.set_xlabel("Ratio (black line: limit)")
    quick = " in a quick run" if found["quick"] else ""
    plots.add_title(
        figure, f"Speed: {sum(held)} of {len(held)} claims hold on {found['machine']['cores']} cores{quick}"
    )
    return figure


def drain(dataset: Any) -> None:
    """Read all batches and keep none."""
    deque(dataset, maxlen=0)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of `work()`."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_in_turns(works: dict[str, Callable[[int], float]], rounds: int) -> dict[str, np.ndarray]:
    """(rounds,) seconds of each work, called with the round's number; alternately: a slower machine slows all."""
    spent = [[work(at) for work in works.values()] for at in range(rounds)]
    return dict(zip(works, np.array(spent).T, strict=True))


def median(values: np.ndarray) -> float:
    """The median as a float, which JSON takes."""
    return float(np.median(values))


def official_files(n: int, magnifications: Sequence[int] = names.MAGNIFICATIONS) -> list[str]:
    """n official names, spread evenly over the slides."""
    images = protocols.official_images()
    files = images["file"][images["magnification"].isin(magnifications)].tolist()
    return [files[at] for at in np.linspace(0, len(files) - 1, n).astype(int)]


def link_tree(folder: Path, files: Sequence[str | Path], pictures: Sequence[Path]) -> None:
    """Make hard links to a few pictures in turn: as much to read and decode as copies, and little on disk."""
    for at, file in enumerate(files):
        path, picture = folder / file, pictures[at % len(pictures)]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.hardlink_to(picture)
        except OSError:  # another file system
            path.symlink_to(picture.resolve())


def linked_data(scratch: Path, files: Sequence[str], pictures: Sequence[Path]) -> config.Data:
    """Settings for a tree of such links; its many equal pictures are kept."""
    link_tree(scratch / "tree", files, pictures)
    return config.Data(root=str(scratch / "tree"), cache=scratch / "cache", duplicates="keep")


def stock_dataset(folder: Path, images: Any, root: Path, image: config.Image) -> Any:
    """The images by image_dataset_from_directory: one folder a class, shuffled by a buffer."""
    import keras

    files = [Path(label) / Path(file).name for label, file in zip(images["label"], images["file"], strict=True)]
    link_tree(folder, files, [root / file for file in images["file"]])
    size = image.height_px, image.width_px
    return keras.utils.image_dataset_from_directory(folder, image_size=size, batch_size=BATCH_SIZE, verbose=False)


if __name__ == "__main__":
    sys.exit(main())
