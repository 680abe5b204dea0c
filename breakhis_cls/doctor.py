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
INSTALL = "pip install -c constraints.txt -e ."
RUN_BYTES = 1_000_000_000  # the model, and two checkpoints with AdamW's state while one replaces the other
FEATURE_BYTES = 3584 * 4  # of one image: conv3, conv4 and conv5 of ResNet50, the widest backbone


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
    verdict = (
        f"cannot run with these settings; to fix: {', '.join(missing)}" if missing else "can run with these settings"
    )
    print(f"\ntrain {verdict}")
    return ANSWER_IS_NO if missing else DONE


def run_checks(settings: config.Config) -> Iterator[Check]:
    """All checks, in the order in which they are printed."""
    import pandas as pd
    from packaging.requirements import Requirement

    from .data import archive, completeness, embeddings, index, kaggle_download, splits
    from .modeling import weights
    from .synthetic import tree

    # --- versions: TensorFlow and Keras, and any other dependency outside its range ---
    yield Check("Python", OK, platform.python_version())
    for needed in map(Requirement, metadata.requires("breakhis_cls") or []):
        if needed.marker is not None:  # of an extra
            continue
        try:
            found = metadata.version(needed.name)
            is_supported = found in needed.specifier
        except metadata.PackageNotFoundError:
            found, is_supported = "not installed", False
        if needed.name in ("tensorflow", "keras") or not is_supported:
            state, advice = (OK, "") if is_supported else (MISSING, INSTALL)
            yield Check(needed.name, state, f"{found} (supported: {needed.specifier})", advice)

    # --- images and split: names alone, so images of equal pixels count twice ---
    topic, state, n_images, parts = "data", OK, None, None
    data, split, source = settings.data, settings.split, settings.features.source
    try:
        if source:
            images = embeddings.load_images(source, data.magnifications)
            found = f"embeddings in {source}"
        elif data.root == "synthetic":  # the first run draws them; until then there are only their names
            filenames = tree.list_filenames(tree.IMAGES_PER_CELL, tree.SLIDES)
            rows = [{"file": names.official_path(name), **names.parse_image_name(name)._asdict()} for name in filenames]
            images = pd.DataFrame(row for row in rows if row["magnification"] in data.magnifications)
            found = "synthetic tissue, which the first run draws"
        else:
            images, counted = index.list_images(data), completeness.check_tree(index.find_root(data))
            state, found = OK if counted.is_complete else NOTE, str(counted)
        n_images = len(images)
        at = " ".join(f"{magnification}X" for magnification in sorted(data.magnifications))
        yield Check(topic, state, f"{n_images:,} at {at}; {found}")
        topic = "split"
        with warnings.catch_warnings():  # names of a CSV that are not there: the run itself prints them
            warnings.simplefilter("ignore", UserWarning)
            parts = splits.assign_split(splits.select_images(images, split), split)["part"].value_counts()
        counts = ", ".join(f"{parts[part]:,} {part}" for part in ("train", "validation", "test"))
        yield Check(topic, OK, f"{split.protocol}, fold {split.fold} of {splits.count_folds(split)}: {counts}")
    except BreakHisError as error:
        yield Check(topic, MISSING, str(error))

    # --- weights of the backbone ---
    try:
        state, found, advice = OK, weights.encoder_title(settings), ""
        if settings.model.weights == "imagenet" and not settings.features.source:
            filename, megabytes = weights.IMAGENET_FILES[settings.model.backbone]
            if not (Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "models" / filename).is_file():
                state, found = NOTE, f"{found}, not here yet"
                advice = f"the first run downloads them ({megabytes} MB); without a network: --model.weights PATH"
        yield Check("weights", state, found, advice)
    except BreakHisError as error:
        yield Check("weights", MISSING, str(error))

    # --- disk ---
    n_rows, image, extracts = n_images or names.N_IMAGES, settings.image, settings.head.epochs and not source
    needs = [
        (data.cache, 0 if source else n_rows * image.height_px * image.width_px * 3, "pixel store"),
        (data.cache, n_rows * FEATURE_BYTES if extracts else 0, "features"),
        (settings.run.dir, RUN_BYTES, "run"),
    ]
    try:
        archive.check_free(needs)
        free = archive.format_bytes(shutil.disk_usage(files.nearest_existing(settings.run.dir)).free)
        wanted = " + ".join(f"{what} {archive.format_bytes(n_bytes)}" for _, n_bytes, what in needs if n_bytes)
        yield Check("disk", OK, f"{free} free; needed: {wanted}")
    except BreakHisError as error:
        yield Check("disk", MISSING, str(error))

    # --- where Kaggle's client would find credentials; never the credentials themselves ---
    places = ", ".join(place for place, exists in kaggle_download.credential_places().items() if exists)
    advice = "only `breakhis download` needs them, and explains how to make a token; not needed with --from-zip"
    yield Check("Kaggle", OK, f"credentials in {places}") if places else Check("Kaggle", NOTE, "no credentials", advice)

    # --- devices and precision, with the switches of a run, since they decide whether TensorFlow starts ---
    from .modeling import devices

    try:
        devices.prepare(settings.run.deterministic, settings.run.precision)
    except (BreakHisError, ImportError) as error:
        yield Check("device", MISSING, f"TensorFlow does not start: {error}", INSTALL)
        return
    gpus, policy = devices.list_gpus(), devices.dtype_policy(settings.run.precision)
    advice = "" if gpus else f"for an NVIDIA card: its driver (nvidia-smi), then {INSTALL}'[gpu]'"
    yield Check("device", OK if gpus else NOTE, f"{', '.join(name for name, _ in gpus) or 'CPU'}, {policy}", advice)

    # --- time from nothing: a forward pass of every image, and some three for each training step ---
    if n_images is not None and parts is not None:
        passes = n_images if extracts else 0
        if settings.fine_tunes:
            passes += settings.tune.epochs * (3 * parts["train"] + parts["validation"])
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
