"""Predict your own images with a trained model. A research tool, not a medical device.

examples:
  breakhis predict runs/binary_200x-0-0-1234abcd field.png              prints a table
  breakhis predict runs/binary_200x-0-0-1234abcd images --out out.csv
"""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import config, files
from .errors import DONE, ConfigError, DataError, ModelError, exits_cleanly, list_first
from .names import IMAGE_SUFFIXES

if TYPE_CHECKING:
    import pandas as pd


class Arguments(config.Section):
    """Arguments of the command."""

    model: Annotated[config.UserPath, config.Positional("RUN_OR_MODEL")]
    """Folder of a finished run, or a model.keras."""
    images: Annotated[tuple[config.UserPath, ...], config.Positional("IMAGE_OR_FOLDER")]
    """Image files of any name and size, or folders of them."""
    out: config.UserPath | None = None
    """CSV file to write; by default the table is printed."""
    skip_broken: bool = False
    """Leave out files that cannot be read, instead of stopping."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print or write a row for each image; model and summary go to stderr, so that the table can be piped."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis predict", __doc__)
    if arguments.out is not None:
        if arguments.out.is_dir():
            raise ConfigError(f"--out {arguments.out} is a folder; name a CSV file in it")
        files.check_folder(arguments.out.parent, "--out")
    folder = arguments.model if arguments.model.is_dir() else arguments.model.parent
    record, data = folder / "environment.json", "data that are not recorded beside it"
    if record.is_file():
        data = json.loads(record.read_text(encoding="utf-8"))["data"]["name"]
    about = f"model:  {arguments.model}, trained on {data}\nResearch use only: this is not a medical device."
    print(about, file=sys.stderr)

    table = predict_images(arguments.model, arguments.images, arguments.skip_broken)
    if arguments.out is None:
        print(table.to_csv(index=False), end="")
    else:
        files.write_csv(arguments.out, table)
    counts = ", ".join(f"{n:,} {name}" for name, n in table["predicted"].value_counts().items())
    where = f"\ntable:  {arguments.out}" if arguments.out else ""
    print(f"result: {len(table):,} images, of which predicted: {counts}{where}", file=sys.stderr)
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

    # --- model, with the settings of its run: of the same size and classes, its images may be fitted in other ways ---
    model_path = Path(model_path)
    folder, file = model_path, model_path / "model.keras"
    if not model_path.is_dir():
        folder, file = model_path.parent, model_path
    settings = config.Config()
    if (folder / "config.yaml").is_file():
        settings = config.load_config(folder / "config.yaml")
    elif zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if config.IN_MODEL not in archive.namelist():
                expected = "name the folder of its run, or put the config.yaml of its run beside it"
                raise ModelError(f"{file} does not say how its images were prepared; {expected}")
            settings = config.parse_config(archive.read(config.IN_MODEL), file)
    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    import numpy as np
    import pandas as pd
    from PIL import Image

    from .data import png, splits
    from .modeling import network
    from .pipeline import pixel_store

    model = network.load_run_model(model_path) if model_path.is_dir() else network.load_model(model_path)
    size, classes = settings.image, splits.class_names(settings.data.task, settings.split.protocol)
    is_of = (*model.input_shape[1:3], model.output_shape[-1])
    if is_of != (size.height_px, size.width_px, len(classes)):  # config.yaml was edited
        expected = f"{size.height_px}x{size.width_px} px, {len(classes)} classes"
        raise ConfigError(
            f"the model's input is {is_of[0]}x{is_of[1]} px, {is_of[2]} classes, its settings say {expected}; restore "
            f"the {folder / 'config.yaml'} of its run"
        )

    # --- pixels ---
    read, pixels, broken = [], [], []
    for path in found:
        try:
            pixels.append(pixel_store.fit_image(png.decode_any(path), size))
        except (OSError, ValueError, DataError, Image.DecompressionBombError) as error:
            broken.append(f"{path}: {error}")
            continue
        read.append(str(path))
    if broken and not (skip_broken and read):
        advice = "replace them, or leave them out with --skip-broken:" if read else "no other image is left:"
        raise DataError(f"{len(broken)} of {len(found)} files cannot be read as images; {advice}{list_first(broken)}")

    # --- probabilities, the mean over the views of the run's test ---
    rows, n_views = np.arange(len(pixels)), settings.augment.test_views
    probabilities = network.predict_views(model, np.stack(pixels), rows, n_views)
    columns = {f"p_{name}": probabilities[:, at] for at, name in enumerate(classes)}
    return pd.DataFrame({"file": read, **columns, "predicted": np.asarray(classes)[probabilities.argmax(axis=1)]})


if __name__ == "__main__":
    sys.exit(main())
