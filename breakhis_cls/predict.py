"""`breakhis predict RUN_OR_MODEL IMAGE_OR_FOLDER [...]`: a trained model's probabilities for any images.

A research tool, not a medical device.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from . import config, files
from .errors import DONE, ConfigError, DataError, ModelError, exits_cleanly, list_first
from .names import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import pandas as pd


class Arguments(config.Section):
    """Arguments of the command."""

    model: Annotated[config.UserPath, tyro.conf.Positional]
    """Folder of a finished run, or a model.keras."""
    images: Annotated[tuple[config.UserPath, ...], tyro.conf.Positional]
    """Image files of any name and size, or folders of them."""
    out: config.UserPath | None = None
    """CSV file to write; by default the table is printed."""
    skip_broken: bool = False
    """Leave out files that cannot be read, instead of stopping."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print or write one row per image: file, a probability for each class, the predicted class."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis predict", __doc__)
    if arguments.out is not None:
        if arguments.out.is_dir():
            raise ConfigError(f"--out {arguments.out} is a folder; name a CSV file in it")
        files.check_folder(arguments.out.parent, "--out")
    table = predict_images(arguments.model, arguments.images, arguments.skip_broken)
    if arguments.out is None:
        print(table.to_csv(index=False), end="")
    else:
        files.write_csv(arguments.out, table)
        print(f"{len(table):,} images: {arguments.out}")
    return DONE


def predict_images(model_path: Path | str, sources: Sequence[Path | str], skip_broken: bool = False) -> pd.DataFrame:
    """Table of file, p_<class> (raw probabilities) and predicted; a row per image, sorted within each folder.

    Images are resized as in the run's training. Raises DataError if there is no image or one cannot be read, ModelError
    if the model cannot be opened.
    """
    from .data import index
    from .modeling import devices

    # --- image files ---
    found: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise DataError(f"no such file or folder: {source}")
        walked = index.walk_tree(source)  # through links, and without hidden and system files
        inside = sorted(Path(folder, name) for folder, _, names in walked for name in filter(index.is_image, names))
        found += inside if source.is_dir() else [source]
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(f"no image under {', '.join(map(str, sources))}; expected files that end in {kinds}")

    # --- model, with the settings of its run where they lie beside it ---
    model_path = Path(model_path)
    folder = model_path if model_path.is_dir() else model_path.parent
    settings = config.load_config(folder / "config.yaml") if (folder / "config.yaml").is_file() else None
    run = settings.run if settings else config.Run()
    devices.prepare(run.deterministic, run.precision)  # before anything imports TensorFlow
    import numpy as np
    import pandas as pd
    from PIL import Image

    from .data import splits
    from .data.png import to_rgb
    from .modeling import features, network
    from .pipeline import batches, pixel_store

    model = network.load_run_model(model_path) if model_path.is_dir() else network.load_model(model_path)
    height_px, width_px = model.input_shape[1:3]
    size = settings.image if settings else config.Image(height_px=height_px, width_px=width_px)
    if (size.height_px, size.width_px) != (height_px, width_px):  # config.yaml was edited
        raise ConfigError(
            f"the model's input is {height_px}x{width_px} px; restore the {folder / 'config.yaml'} of its run"
        )
    # Without a config.yaml the number of outputs says which task it was: two are benign and malignant, eight subtypes.
    tasks, protocol = ([settings.data.task], settings.split.protocol) if settings else (("binary", "subtype"), "case")
    by_number = {len(names): names for names in (splits.class_names(task, protocol) for task in tasks)}
    classes = by_number.get(model.output_shape[-1])
    if classes is None:
        raise ModelError(f"{model_path} has {model.output_shape[-1]} outputs; name the folder of its run")

    # --- pixels ---
    read, pixels, broken = [], [], []
    for file in found:
        try:
            with Image.open(file) as opened:
                rgb = to_rgb(opened)
        except (OSError, ValueError, DataError, Image.DecompressionBombError) as error:  # over 179 million pixels
            broken.append(f"{file}: {error}")
            continue
        read.append(str(file))
        pixels.append(pixel_store.fit_image(rgb, size))
    if broken and not (skip_broken and read):
        advice = "replace them, or leave them out with --skip_broken:" if read else "no other image is left:"
        raise DataError(f"{len(broken)} of {len(found)} files cannot be read as images; {advice}{list_first(broken)}")

    # --- probabilities, the mean over the views of the run's test ---
    images, rows = np.stack(pixels), np.arange(len(pixels))
    views = range(settings.augment.test_views if settings else 1)
    in_view = [batches.ordered_batches(images, rows, features.BATCH_SIZE, view) for view in views]
    probabilities = np.mean([model.predict(batch, verbose=0) for batch in in_view], axis=0)
    columns = {f"p_{name}": probabilities[:, at] for at, name in enumerate(classes)}
    return pd.DataFrame({"file": read, **columns, "predicted": np.asarray(classes)[probabilities.argmax(axis=1)]})


if __name__ == "__main__":
    sys.exit(main())
