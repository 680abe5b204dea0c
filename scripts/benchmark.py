"""How fast the package is compared with stock Keras and with lower bounds: ratios, measured alternately in one run.

python scripts/benchmark.py [--quick] [--data.root DIR] [--json FILE]     some 20 minutes on 2 cores; --quick some 3
Runs offline with random weights, which cost the same time as trained ones, from cold caches in a temporary folder. The
protocol is measured on `data.root`, the rest on synthetic tissue under official names. A second table has what whole
commands cost, start-ups included. Tables (.md) and a figure lie beside the JSON file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image
from pydantic import Field

from breakhis_cls import config, names
from breakhis_cls.data import index, protocols
from breakhis_cls.data.dataset import load_dataset
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.files import write_json, write_text
from breakhis_cls.modeling import devices
from breakhis_cls.parallel import count_cores
from breakhis_cls.pipeline.pixel_store import PixelStore
from breakhis_cls.reports import plots
from breakhis_cls.synthetic import tree

BATCH_SIZE, HEAD_EPOCHS = 32, 30
TRAIN_SHARE, VALIDATION_SHARE, TEST_SHARE = 0.64, 0.16, 0.2  # of the images, in a fold of the protocol `case`


class Claim(NamedTuple):
    """A ratio, its limit, and the numbers of `found` that explain it."""

    title: str
    sign: Literal[">=", "<="]
    limit: float
    measured: str


CLAIMS = {
    "extraction_vs_forward": Claim(
        "Extraction rate over forward pass", ">=", 0.9,
        "features from PNG files at {images_per_s:.1f} images/s, the bare forward pass at {bare_images_per_s:.1f}; "
        "decoding, resizing and storing take {decoding_share:.1%} of the time; {n_images:,} images"),
    "protocol_vs_stock_keras": Claim(
        "Protocol, times faster than stock Keras", ">=", 50,
        "folds of a head on a frozen backbone from cold caches: {cold_s:.1f} s instead of {stock_s_extrapolated:,.0f} "
        "s, extrapolated from one epoch at {stock_ms_per_image:.0f} ms an image; {warm_s:.1f} s from warm caches "
        "({ratio_warm:,.0f}x); folds: {n_folds}; stock Keras trains for 30 epochs; {n_images:,} images ({data})"),
    "epoch_vs_stock_keras": Claim(
        "Epoch, times faster than stock Keras", ">=", 20,
        "no model: {store_images_per_s:,.0f} images/s from the pixel store, {stock_images_per_s:,.0f} by "
        "image_dataset_from_directory; {n_images:,} PNGs of 700x460"),
    "index_vs_decode": Claim(
        "Index time over decoding", "<=", 1.3,
        "with hashes {index_s:.1f} s, bare decoding on all cores {decode_s:.1f} s; {again_s:.2f} s the second time; "
        "{n_images:,} PNGs of 700x460"),
}  # fmt: skip


class Sizes(NamedTuple):
    """How much is measured, in images."""

    rounds: int  # of what is measured alternately
    slides: int  # that are drawn, each at four magnifications
    indexed: int
    epoch: int
    extracted: int  # whole batches of features.BATCH_SIZE
    protocol: int  # of the synthetic set; a data.root is taken whole, except by --quick
    folds: int
    stock: int  # in one measured epoch of stock Keras
    image: config.Image = config.Image()
    seeds: tuple[int, ...] = (0, 1, 2)  # of Keras's heads in the published protocol; none: five runs stand for it


FULL = Sizes(3, 6, names.N_IMAGES, 384, 128, 628, 5, 256)
QUICK = Sizes(1, 2, 400, 64, 32, 160, 5, 32, seeds=())


class Benchmark(config.Section):
    """What is measured."""

    data: config.Data = config.Data(root="synthetic", magnifications=(200,))
    quick: bool = False
    """Fewer images and rounds: some 3 minutes on 2 cores, and less precise."""
    json_file: Path = Field(Path("reports/benchmark/benchmark.json"), alias="json")
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
    table = asked.json_file.with_suffix(".md")
    print(table.read_text(), f"{table} and .json, .png, .svg beside it", sep="\n")
    return DONE


def measure(asked: Benchmark, sizes: Sizes, scratch: Path) -> dict[str, Any]:
    """The four claims by key, and when and with what they were measured."""
    started = time.monotonic()
    slides = tree.SLIDES[:: len(tree.SLIDES) // sizes.slides]
    pictures = sorted(tree.write_tree(scratch / "drawn", images_per_cell=1, slides=slides).rglob("*.png"))
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "quick": asked.quick, "cores": count_cores()}
    found["environment"] = devices.environment(config.Run(deterministic=False))
    steps: dict[str, Callable[[Path], dict[str, Any]]] = {
        "index_vs_decode": lambda folder: measure_index(sizes, pictures, folder),
        "extraction_vs_forward": lambda folder: measure_extraction(sizes, pictures, folder),
        "epoch_vs_stock_keras": lambda folder: measure_epoch(sizes, pictures, folder),
        "protocol_vs_stock_keras": lambda folder: measure_protocol(asked, sizes, pictures, folder),
        "extraction_by_arithmetic": lambda folder: measure_arithmetic(sizes),
        "commands": lambda folder: measure_commands(sizes, pictures, folder),
    }
    for key, step in steps.items():
        print(f"{time.monotonic() - started:4.0f} s: {key}", file=sys.stderr)
        found[key] = step(scratch / key)
    return found | {"seconds": round(time.monotonic() - started)}


def measure_index(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Seconds to index a tree, over seconds to decode as many PNGs in memory by Pillow on all cores."""
    raws = [picture.read_bytes() for picture in pictures]
    data = linked_data(scratch, sizes.indexed, pictures)

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
    from breakhis_cls.modeling import features, network

    n, model = sizes.extracted, config.Model(weights="random")
    backbone, widths = network.build_backbone(model, features.BLOCKS), network.widths(model)
    shape = (features.BATCH_SIZE, sizes.image.height_px, sizes.image.width_px, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    backbone.predict_on_batch(batch)  # traces the graph
    data = linked_data(scratch, n, pictures)
    images, root = index.load_images(data), index.find_root(data)
    hashes = np.array([f"{at:064x}" for at in range(n)])  # all differ: none is spared as known

    def new_cache() -> Path:
        return Path(tempfile.mkdtemp(dir=scratch))

    store = PixelStore.open(images, root, sizes.image, new_cache())
    spent = measure_in_turns(
        sizes.rounds,
        forward=lambda: [backbone.predict_on_batch(batch) for _ in range(n // len(batch))],
        store=lambda: PixelStore.open(images, root, sizes.image, new_cache()),
        features=lambda: list(features.write_shards(backbone, widths, hashes, store.array, store.rows, new_cache())),
    )
    ours, bare = spent["store"] + spent["features"], spent["forward"]
    return {
        "ratio": np.median(bare / ours), "images_per_s": np.median(n / ours), "bare_images_per_s": np.median(n / bare),
        "decoding_share": np.median(spent["store"] / ours), "n_images": n,
    }  # fmt: skip


def measure_epoch(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Stock Keras's epoch over PNG files at the same output size, over ours from the store; shuffled, no model."""
    from breakhis_cls.pipeline import batches

    n = sizes.epoch
    data = linked_data(scratch, n, pictures)
    images, root = index.load_images(data), index.find_root(data)
    store = PixelStore.open(images, root, sizes.image, data.cache)
    rows = batches.TrainingRows(store.array, store.rows, np.zeros((n, 2)))
    stock = stock_dataset(scratch / "classes", images, root, sizes.image)
    n_epochs = -(-500 // n)  # of ours: at least 500 rows, else the start of the pipeline would count
    spent = measure_in_turns(
        1 + sizes.rounds,
        stock=lambda: deque(stock, maxlen=0),
        store=lambda: deque(batches.training_batches(rows, BATCH_SIZE, 0, 0, n_epochs), maxlen=0),
    )
    ours = spent["store"] / n_epochs
    return {
        "ratio": np.median(spent["stock"] / ours), "stock_images_per_s": np.median(n / spent["stock"]),
        "store_images_per_s": np.median(n / ours), "n_images": n,
    }  # fmt: skip


def measure_protocol(asked: Benchmark, sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, Any]:
    """Stock Keras's seconds for the folds of a head on a frozen backbone, over the package's from cold caches.

    Stock Keras's seconds an image are measured in one epoch, half before and half after the package's runs, and scaled
    up: a pass over training and validation images in each epoch, and one over the test images.
    """
    import keras

    from breakhis_cls.train import train_run

    # --- the data: synthetic tissue, or a tree of one's own; with --quick a part of it, evenly over its slides ---
    if asked.data.root == "synthetic":
        files = official_files(sizes.protocol, asked.data.magnifications)
    else:
        files = index.list_images(asked.data)["file"].tolist()
        files = spread(files, sizes.protocol) if asked.quick else files
        pictures = [index.find_root(asked.data) / file for file in files]
    link_tree(scratch / "tree", files, pictures)
    changes = {"root": str(scratch / "tree"), "cache": scratch / "cache", "duplicates": "keep"}
    settings = config.Config(
        name="benchmark", data=asked.data.model_copy(update=changes), image=sizes.image,
        model=config.Model(weights="random", features=("conv5",)),
        run=config.Run(reports=scratch / "reports", deterministic=False, save_model=False),
    )  # fmt: skip
    dataset = load_dataset(settings)
    n = len(dataset.images)

    # --- stock Keras: as its transfer-learning guide, a frozen base inside the model that `fit` trains ---
    n_fitted = min(sizes.stock, n) // 2
    chosen = dataset.images.iloc[spread(range(n), n_fitted)]
    stock = stock_dataset(scratch / "classes", chosen, dataset.root, settings.image)
    base = keras.applications.ResNet50(include_top=False, weights=None, pooling="avg")
    base.trainable = False
    pixels = keras.Input((settings.image.height_px, settings.image.width_px, 3))
    pooled = base(keras.applications.resnet50.preprocess_input(pixels), training=False)
    model = keras.Model(pixels, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dropout(0.2)(pooled)))
    model.compile(optimizer="adam", loss="binary_crossentropy")
    model.fit(stock.take(1), shuffle=False, verbose=0)  # traces the graph; the dataset shuffles itself
    epoch = partial(model.fit, stock, shuffle=False, verbose=0)

    # --- the package: all folds by its own command, from cold caches (the index too), then from warm ones ---
    cold_data = settings.data.model_copy(update={"cache": scratch / "cold" / "cache"})

    def train_folds(runs: str) -> None:
        run = settings.run.model_copy(update={"dir": scratch / "cold" / runs})
        for fold in range(sizes.folds):
            changes = {"data": cold_data, "run": run, "split": config.Split(fold=fold)}
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                # As a sweep does: a head alone, and intervals in the report of all runs. Without progress bars.
                train_run(settings.model_copy(update=changes), report=False, intervals=False)

    before_s = seconds(epoch)
    cold_s = seconds(lambda: train_folds("runs"))
    warm_s = seconds(lambda: train_folds("again"))
    image_s = (before_s + seconds(epoch)) / (2 * n_fitted)
    stock_s = sizes.folds * n * image_s * (HEAD_EPOCHS * (TRAIN_SHARE + VALIDATION_SHARE) + TEST_SHARE)
    return {
        "ratio": stock_s / cold_s, "ratio_warm": stock_s / warm_s, "cold_s": cold_s, "warm_s": warm_s,
        "stock_s_extrapolated": stock_s, "stock_ms_per_image": 1_000 * image_s, "n_folds": sizes.folds, "n_images": n,
        "data": "synthetic tissue" if asked.data.root == "synthetic" else dataset.name,
    }  # fmt: skip


ARITHMETIC = {   # name -> precision, oneDNN, backend
    "TensorFlow, oneDNN off, float32": ("float32", False, "tensorflow"),
    "TensorFlow, oneDNN, float32": ("float32", True, "tensorflow"),
    "TensorFlow, oneDNN, bfloat16": ("mixed_bfloat16", True, "tensorflow"),
    "JAX, float32": ("float32", False, "jax"),
}  # fmt: skip


def measure_arithmetic(sizes: Sizes) -> dict[str, float]:
    """Images a second of the forward pass in each arithmetic, each in fresh processes in turns: the median."""
    code = (
        "import json, sys, benchmark; precision, onednn, n, *shape = json.loads(sys.argv[1]); "
        "print(benchmark.forward_rate(precision, onednn, n, shape))"
    )
    rates: dict[str, list[float]] = {name: [] for name in ARITHMETIC}
    for _, (name, (precision, onednn, backend)) in itertools.product(range(sizes.rounds), ARITHMETIC.items()):
        if backend == "jax" and importlib.util.find_spec("jax") is None:
            continue
        given = json.dumps([precision, onednn, sizes.extracted, sizes.image.height_px, sizes.image.width_px])
        command, environment = [sys.executable, "-c", code, given], {**os.environ, "KERAS_BACKEND": backend}
        places = {"cwd": Path(__file__).parent, "env": environment, "encoding": "utf-8"}
        answer = subprocess.run(command, stdout=subprocess.PIPE, check=True, **places)
        rates[name].append(float(answer.stdout))
    return {name: float(np.median(found)) for name, found in rates.items() if found}


def forward_rate(precision: str, onednn: bool, n: int, size: tuple[int, int]) -> float:
    """Images a second of all blocks of ResNet50, as extraction computes them."""
    devices.prepare(deterministic=True, precision=precision, onednn=onednn)
    from breakhis_cls.modeling import features, network

    backbone = network.build_backbone(config.Model(weights="random"), features.BLOCKS)
    pixels = np.random.default_rng(0).integers(0, 256, (features.BATCH_SIZE, *size, 3), dtype=np.uint8)
    features.predict_rows(backbone, pixels, np.arange(len(pixels)))  # traces the graph
    return n / seconds(lambda: features.predict_rows(backbone, pixels, np.arange(n) % len(pixels)))


def measure_commands(sizes: Sizes, pictures: list[Path], scratch: Path) -> dict[str, dict[str, float]]:
    """Wall and CPU seconds of whole commands, and the peak memory of the largest process that each started."""
    data = linked_data(scratch, 1_000, pictures)
    small = {"image.height_px": 64, "image.width_px": 96, "model.weights": "random", "data.root": data.root}
    given = {**small, "data.cache": str(data.cache), "data.duplicates": "keep", "split.protocol": "spanhol"}
    folds: dict[str, list[Any]] = {"split.fold": [*range(5)]}
    published = folds | {
        "data.task": ["binary", "subtype"],
        "data.magnifications": [[40], [100], [200], [400], [40, 100, 200, 400]],
    }
    plans = {"first sweep, features included": ({}, folds)}
    if sizes.seeds:
        plans["sweep of logistic heads"] = {}, published
        plans["sweep of heads by Keras"] = {"head.kind": "keras"}, published | {"run.seed": [*sizes.seeds]}
    else:
        plans["sweep of logistic heads"] = {"head.C": 0.1}, folds
    found = {}
    for name, (changes, axes) in plans.items():
        n_runs = math.prod(map(len, axes.values()))
        places = {key: str(scratch / name / key) for key in ("run.dir", "run.reports")}
        write_text(scratch / f"{name}.yaml", json.dumps({"set": given | changes | places, "axes": axes}))
        command = ["-m", "breakhis_cls", "sweep", "--config", str(scratch / f"{name}.yaml")]
        found[f"{name}, {n_runs} runs"] = {"n_runs": n_runs, **run_command(*command)}
    # What a run cost while each had a process of its own.
    alone = config.load_config("binary_200x", **given | {"run.dir": scratch / "alone", "head.C": 0.2})
    write_text(scratch / "alone.yaml", config.dump_config(alone))
    code = "import sys; from breakhis_cls.sweeping import worker; sys.exit(worker.train_file(sys.argv[1]))"
    command = ["-c", code, str(scratch / "alone.yaml")]
    found["a logistic head in a process of its own"] = {"n_runs": 1, **run_command(*command)}
    if sizes.seeds:
        places = [f"--{key}={scratch / key}" for key in ("data.cache", "run.dir", "run.reports")]
        command = ["-m", "breakhis_cls", "train", "--config", "demo", *places]
        found["make demo, after installation"] = {"n_runs": 1, **run_command(*command)}
    return found


# Runs a command and prints what it and its processes used. A small process of its own: the peak memory of a child that
# this one starts would be ours, which is what Linux counts before the child's program begins.
LAUNCHER = """if True:
    import json, resource, subprocess, sys, time
    started = time.perf_counter()
    done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(sys.argv[1:])} failed:\\n{done.stdout}")
    cpu_s = used.ru_utime + used.ru_stime
    print(json.dumps({"seconds": time.perf_counter() - started, "cpu_s": cpu_s, "peak_gib": used.ru_maxrss / 2**20}))
"""


def run_command(*arguments: str) -> dict[str, float]:
    """Seconds, CPU seconds and the peak memory of the largest process of a Python command and all that it started."""
    command = [sys.executable, "-c", LAUNCHER, sys.executable, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, encoding="utf-8").stdout)


def write_results(found: dict[str, Any], json_file: Path) -> None:
    """JSON, and beside it a Markdown table and a bar for each ratio on a log axis, with its limit as a line."""
    versions = ", ".join(f"{name} {found['environment']['versions'][name]}" for name in ("tensorflow", "keras"))
    lines = [
        f"{found['date']}, {found['cores']} cores, {' '.join(found['environment']['devices'])}; {versions}; "
        f"{found['seconds']} s{' (--quick: imprecise, and too few images for the protocol)' * found['quick']}",
        "", "| claim | ratio | required | holds | measured |", "|---|---|---|---|---|",
    ]  # fmt: skip
    figure, axes = plots.new_figure(plots.PAGE_IN, 2.4)
    ax, n_held = axes[0, 0], 0
    for at, (key, claim) in enumerate(CLAIMS.items()):
        ratio = found[key]["ratio"]
        holds = ratio >= claim.limit if claim.sign == ">=" else ratio <= claim.limit
        required = f"{claim.sign} {claim.limit:g}"
        n_held += holds
        cells = claim.title, f"{ratio:.3g}", required, "yes" if holds else "NO", claim.measured.format(**found[key])
        lines.append(f"| {' | '.join(cells)} |")
        ax.barh(at, ratio, color=plots.BLUE if holds else plots.VERMILION, height=0.5)
        ax.plot([claim.limit, claim.limit], [at - 0.35, at + 0.35], color=plots.BLACK, linewidth=1.5)
        end = max(ratio, claim.limit), at
        ax.annotate(f"{ratio:.3g} ({required})", end, (5, 0), textcoords="offset points", va="center", fontsize=8)
    lines += ["", "| forward pass, ResNet50 | images/s |", "|---|---|"]
    lines += [f"| {name} | {rate:.1f} |" for name, rate in found["extraction_by_arithmetic"].items()]
    lines += ["", "| command | s | CPU s | CPU s a run | peak GiB of a process |", "|---|---|---|---|---|"]
    for name, cost in found["commands"].items():
        cells = [f"{cost[key]:.0f}" for key in ("seconds", "cpu_s")] + [f"{cost['cpu_s'] / cost['n_runs']:.1f}"]
        lines.append(f"| {' | '.join([name, *cells, format(cost['peak_gib'], '.2f')])} |")
    ax.set_yticks(range(len(CLAIMS)), [claim.title for claim in CLAIMS.values()])
    longest = max(max(found[key]["ratio"], claim.limit) for key, claim in CLAIMS.items())
    ax.set(xscale="log", xlim=(0.1, 6 * longest), ylim=(len(CLAIMS) - 0.5, -0.5), xlabel="Ratio (black line: limit)")
    plots.add_title(figure, f"Speed: {n_held} of {len(CLAIMS)} claims hold on {found['cores']} cores")
    plots.save(figure, json_file.parent, json_file.stem, titled=True)
    write_json(json_file, found)
    write_text(json_file.with_suffix(".md"), "\n".join(lines) + "\n")


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of `work()`."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure_in_turns(rounds: int, **works: Callable[[], Any]) -> dict[str, np.ndarray]:
    """(rounds,) seconds of each work; alternately, so that a slower machine slows all of them."""
    spent = [[seconds(work) for work in works.values()] for _ in range(rounds)]
    return dict(zip(works, np.array(spent).T, strict=True))


def spread(items: Sequence[Any], n: int) -> list[Any]:
    """n of the items, evenly over them, or all if they are fewer."""
    return [items[at] for at in np.linspace(0, len(items) - 1, min(n, len(items))).astype(int)]


def official_files(n: int, magnifications: Sequence[int] = names.MAGNIFICATIONS) -> list[str]:
    """n official names, spread evenly over the slides."""
    images = protocols.official_images()
    return spread(images["file"][images["magnification"].isin(magnifications)].tolist(), n)


def link_tree(folder: Path, files: Sequence[str | Path], pictures: Sequence[Path]) -> None:
    """Make links to a few pictures in turn: as much to read and decode as copies, and little on disk."""
    for at, file in enumerate(files):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).symlink_to(pictures[at % len(pictures)].resolve())


def linked_data(scratch: Path, n: int, pictures: Sequence[Path]) -> config.Data:
    """Settings for a tree of n such links under official names with the picture's label; equal pictures are kept."""
    files = official_files(n)
    turns = {
        label: itertools.cycle([picture for picture in pictures if names.parse_image_name(picture.name).label == label])
        for label in names.LABELS
    }
    linked = [next(turns[names.parse_image_name(file).label]) for file in files]
    link_tree(scratch / "tree", files, linked)
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
