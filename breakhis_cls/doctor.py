"""Check whether this machine can run `train` with these settings, what to install or change if not, and how long it
takes.

examples:
  breakhis doctor
  breakhis doctor --config finetune_200x

Opens no image and asks no network. Imports TensorFlow for the last checks only.
"""

import os
import platform
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from . import config, files, names, parallel
from .errors import ANSWER_IS_NO, DONE, BreakHisError, exits_cleanly

OK, NOTE, MISSING = "ok", "note", "missing"
PACKAGE = "breakhis_cls"
INSTALL = "pip install -c constraints.txt -e ."
INSTALL_GPU = "pip install -c constraints.txt -e '.[gpu]'"
ENOUGH_BYTES = 8 * 2**30  # of memory, for fine-tuning conv5 at 230x350 in batches of 16
RUN_BYTES = 1_000_000_000  # the model, and two checkpoints with AdamW's state while one replaces the other
FEATURE_BYTES = 3584 * 4  # of one image and view: conv3, conv4 and conv5 of ResNet50, the widest backbone


class Check(NamedTuple):
    """What was checked, its state (NOTE: a run works without it, MISSING: it does not), and what to do."""

    topic: str
    state: str
    found: str
    advice: str = ""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print the checks and a verdict; exit code 1 if `train` could not run."""
    settings = config.parse_settings(config.Config, argv, "breakhis doctor", __doc__)
    missing = []
    for topic, state, found, advice in run_checks(settings):
        print(f"{state:<8} {topic:<11} {found}" + (f"\n{'':21}-> {advice}" if advice else ""))
        missing += [topic] if state == MISSING else []
    if missing:
        print(f"\ntrain cannot run with these settings; to fix: {', '.join(missing)}")
        return ANSWER_IS_NO
    print("\ntrain can run with these settings")
    return DONE


def run_checks(settings: config.Config) -> Iterator[Check]:
    """All checks, in the order in which they are printed."""
    import pandas as pd
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    from .data import archive, completeness, embeddings, index, kaggle_download, splits
    from .modeling import weights
    from .synthetic import tree

    # --- versions: Python, TensorFlow and Keras, and any other dependency outside its range ---
    requirements = [Requirement(line) for line in metadata.requires(PACKAGE) or []]
    supported = {one.name: one.specifier for one in requirements if one.marker is None}  # a marker names an extra
    python = SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"])
    for name, versions in {"Python": python, **supported}.items():
        try:
            found = platform.python_version() if name == "Python" else metadata.version(name)
        except metadata.PackageNotFoundError:
            found = ""
        if not found or found not in versions:
            advice = "create the environment with another Python" if name == "Python" else INSTALL
            yield Check(name, MISSING, f"{found or 'not installed'} (supported: {versions})", advice)
        elif name in ("Python", "tensorflow", "keras"):
            yield Check(name, OK, f"{found} (supported: {versions})")

    # --- memory ---
    tune, n_bytes = settings.tune, parallel.memory_bytes()
    is_little = tune.part != "none" and n_bytes < ENOUGH_BYTES
    smaller = f"--tune.batch_size {max(tune.batch_size // 4, 1)}"
    advice = f"fine-tuning may need 8 GiB; if memory runs out: {smaller}" if is_little else ""
    found = f"{n_bytes / 2**30:.1f} GiB, {parallel.count_cores()} cores"
    yield Check("memory", NOTE if is_little else OK, found, advice)

    # --- images and split: names alone, so images of equal pixels count twice ---
    n_images, parts, data, split, advice = None, None, settings.data, settings.split, ""
    try:
        if source := settings.features.source:
            images = embeddings.load_images(source, data.magnifications)
            found = f"{len(images):,} embeddings in {source}"
        elif data.root == "synthetic":  # the first run draws them; until then there are only their names
            filenames = tree.list_filenames(tree.IMAGES_PER_CELL, tree.SLIDES)
            rows = [{"file": names.official_path(name), **names.parse_image_name(name)._asdict()} for name in filenames]
            images = pd.DataFrame(row for row in rows if row["magnification"] in data.magnifications)
            found = f"{len(images):,} images of synthetic tissue; the first run draws them"
        else:
            images = index.list_images(data)
            counted = completeness.check_tree(index.find_root(data))
            at = " ".join(f"{magnification}X" for magnification in sorted(data.magnifications))
            found = (
                f"{counted.n_images:,} of {counted.n_expected:,} images under {counted.root}, {len(images):,} at {at}"
            )
            if not counted.is_complete:
                advice = "training on a part works; `breakhis download --verify` lists what is missing"
        n_images = len(images)
        yield Check("data", NOTE if advice else OK, found, advice)
        with warnings.catch_warnings():  # names of a CSV that are not there: the run itself prints them
            warnings.simplefilter("ignore", UserWarning)
            parts = splits.assign_split(splits.select_images(images, split), split)["part"].value_counts()
        counts = ", ".join(f"{parts[part]:,} {part}" for part in ("train", "validation", "test"))
        yield Check("split", OK, f"{split.protocol}, fold {split.fold} of {splits.count_folds(split)}: {counts}")
    except BreakHisError as error:
        topic = "data" if n_images is None else "split"
        fault = "no images to train on" if n_images is None else f"protocol {split.protocol} cannot split these images"
        yield Check(topic, MISSING, fault, str(error))

    # --- weights of the backbone ---
    model = settings.model
    if settings.features.source:
        yield Check("weights", OK, "not needed with features.source")
    elif model.weights == "imagenet":
        filename, megabytes = weights.IMAGENET_FILES[model.backbone]
        path = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models" / filename
        advice = f"the first run downloads them ({megabytes} MB); without a network: --model.weights PATH"
        there = Check("weights", OK, f"{model.backbone} (imagenet), {path}")
        yield there if path.is_file() else Check("weights", NOTE, f"{model.backbone} (imagenet), not here yet", advice)
    else:
        try:
            yield Check("weights", OK, f"{weights.weights_title(model)}, {weights.weights_identity(model)[:16]}")
        except BreakHisError as error:
            yield Check("weights", MISSING, f"no file {model.weights}", str(error))

    # --- disk: pixel store, features and run; archive and tree too where there are no images yet ---
    n_rows = names.N_IMAGES if n_images is None else n_images
    folders = {"data.cache": data.cache, "run.dir": settings.run.dir, "run.reports": settings.run.reports}
    extracts = settings.head.epochs > 0 and not settings.features.source
    needs = [
        (data.cache, n_rows * settings.image.height_px * settings.image.width_px * 3, "pixel store"),
        (data.cache, n_rows * extracts * FEATURE_BYTES, "features"),
        (settings.run.dir, RUN_BYTES, "run"),
    ]
    if n_images is None:
        size = kaggle_download.ARCHIVE_BYTES
        needs += [(data.cache, size, "archive"), (Path(data.root), size, "tree")]
    try:
        archive.check_free(needs)
        free = archive.format_bytes(shutil.disk_usage(files.nearest_existing(settings.run.dir)).free)
        wanted = " + ".join(f"{what} {archive.format_bytes(n_bytes)}" for _, n_bytes, what in needs if n_bytes)
        yield Check("disk", OK, f"{free} free; needed: {wanted}")
    except BreakHisError as error:
        yield Check("disk", MISSING, "not enough room", str(error))
    for setting, folder in folders.items():
        existing = files.nearest_existing(folder)  # a run creates what is missing below it
        if not (existing.is_dir() and os.access(existing, os.W_OK)):
            yield Check("folder", MISSING, f"{existing} cannot be written", f"choose another folder with --{setting}")

    # --- where Kaggle's client would find credentials; never the credentials themselves ---
    places = [place for place, exists in kaggle_download.credential_places().items() if exists]
    advice = "only `breakhis download` needs them, and explains how to make a token; not needed with --from-zip"
    yield Check("Kaggle", OK if places else NOTE, f"credentials in {', '.join(places)}" if places else "no credentials",
                "" if places else advice)  # fmt: skip

    # --- devices and precision, with the switches of a run, since they decide whether TensorFlow starts ---
    from .modeling import devices

    try:
        devices.prepare(settings.run.deterministic, settings.run.precision)
    except (BreakHisError, ImportError) as error:
        yield Check("device", MISSING, f"TensorFlow does not start: {error}", INSTALL)
        return
    device, policy = [name for name, _ in devices.list_gpus()] or ["CPU"], devices.dtype_policy(settings.run.precision)
    advice = f"for an NVIDIA card: its driver (nvidia-smi), then {INSTALL_GPU}" if device == ["CPU"] else ""
    yield Check("device", NOTE if advice else OK, f"{', '.join(device)}, {policy}", advice)

    # --- time from nothing: a forward pass of every image, and some three for each training step ---
    if n_images is not None and parts is not None:
        passes = extracts * n_images
        if settings.fine_tunes:
            passes += tune.epochs * (3 * parts["train"] + parts["validation"])
            passes += parts["validation"] + parts["test"]
        found = parallel.format_duration(passes * time_forward_pass(settings) if passes else 0)
        yield Check("time", OK, f"about {found}, by one timed batch; less where features are cached")


def time_forward_pass(settings: config.Config) -> float:
    """Seconds that an image takes in the backbone, here and now."""
    import numpy as np

    from .modeling import features, network

    backbone = network.build_backbone(settings.model.model_copy(update={"weights": "random"}))
    pixels = np.zeros((1, settings.image.height_px, settings.image.width_px, 3), np.uint8)
    rows = np.zeros(features.BATCH_SIZE, int)
    features.predict_rows(backbone, pixels, rows)  # the first call traces the graph
    started = time.monotonic()
    features.predict_rows(backbone, pixels, rows)
    return (time.monotonic() - started) / len(rows)


if __name__ == "__main__":
    sys.exit(main())
