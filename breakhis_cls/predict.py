"""Your own images: `python -m breakhis_cls.predict RUN_OR_MODEL IMAGE_OR_FOLDER [...] [--out CSV]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from . import config
from .config import Section
from .errors import DONE, ConfigError, DataError, ModelError, exits_cleanly, list_first

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd

SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"}


class Arguments(Section):
    """What the command takes."""

    model: Annotated[Path, tyro.conf.Positional]
    """A finished run's folder, or a model.keras."""
    images: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Image files of any name and size, or folders of them."""
    out: Path | None = None
    """CSV to write; without it the table is printed."""
    skip_broken: bool = False
    """Leave out files that cannot be read instead of stopping."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print or write one row an image: file, a probability for each class, the most probable class."""
    given = config.parse_arguments(
        Arguments, argv, "breakhis predict", "Probabilities for your own images. A research tool, not a medical device."
    )
    table = predict_images(given.model, list(given.images), given.skip_broken)
    if given.out is None:
        print(table.to_csv(index=False), end="")
    else:
        from .files import atomic_path

        with atomic_path(given.out) as temporary:
            table.to_csv(temporary, index=False)
        print(f"{len(table):,} images: {given.out}")
    return DONE


def predict_images(model_path: Path, sources: list[Path], skip_broken: bool = False) -> pd.DataFrame:
    """Table of file, p_<class> (raw probabilities), predicted. The whole field is fitted as in the run's training.

    Raises DataError where no image is found or one cannot be read, ModelError where the model cannot be opened.
    """
    from .modeling import devices

    settings = _settings_beside(model_path)
    made = settings.run if settings else config.Run()
    devices.prepare(made.deterministic, made.precision)
    import pandas as pd

    from .modeling import network

    model = network.load_run_model(model_path) if model_path.is_dir() else network.load_model(model_path)
    height, width = model.input_shape[1:3]
    fit = settings.image if settings else config.Image(height_px=height, width_px=width)
    files, images = _read(find_images(sources), fit, skip_broken)
    classes = _classes(settings, model.output_shape[-1])
    probabilities = _probabilities(model, images, settings.augment.test_views if settings else 1)
    columns = {f"p_{name}": probabilities[:, at] for at, name in enumerate(classes)}
    predicted = [classes[at] for at in probabilities.argmax(axis=1)]
    return pd.DataFrame({"file": [str(file) for file in files], **columns, "predicted": predicted})


def find_images(sources: list[Path]) -> list[Path]:
    """Image files among the paths, folders searched to any depth, sorted; DataError where there is none."""
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise DataError(f"no such file or folder: {source}")
        inside = sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
        files += inside if source.is_dir() else [source]
    if not files:
        kinds = " ".join(sorted(SUFFIXES))
        raise DataError(f"no image under {', '.join(map(str, sources))}; expected files that end in {kinds}")
    return files


def _settings_beside(model_path: Path) -> config.Config | None:
    """The run's config, where the model lies in a run's folder."""
    beside = (model_path if model_path.is_dir() else model_path.parent) / "config.yaml"
    return config.load_config(beside) if beside.is_file() else None


def _classes(settings: config.Config | None, n_classes: int) -> tuple[str, ...]:
    from .data import splits

    if settings:
        return splits.class_names(settings.data.task, settings.split.protocol)
    for task in ("binary", "subtype"):
        if len(splits.class_names(task, "case")) == n_classes:
            return splits.class_names(task, "case")
    raise ModelError(f"the model has {n_classes} outputs and no config.yaml beside it; name the run's folder instead")


def _read(files: list[Path], image: config.Image, skip_broken: bool) -> tuple[list[Path], np.ndarray]:
    import numpy as np
    from PIL import Image

    from .data.png import to_rgb
    from .pipeline import pixel_store

    read, fitted, broken = [], [], []
    for file in files:
        try:
            with Image.open(file) as opened:
                rgb = to_rgb(opened)
        except (OSError, ValueError, DataError, Image.DecompressionBombError) as error:
            broken.append(f"{file}: {error}")
            continue
        read.append(file)
        fitted.append(pixel_store.fit_image(rgb, image))
    if broken and not (skip_broken and read):
        raise DataError(
            f"{len(broken)} of {len(files)} files cannot be read as images; {_advice(read)}{list_first(broken)}"
        )
    return read, np.stack(fitted)


def _advice(read: list[Path]) -> str:
    return "mend them, or say --skip_broken True:" if read else "none is left:"


def _probabilities(model: keras.Model, images: np.ndarray, n_views: int) -> np.ndarray:
    import numpy as np

    from .modeling import features
    from .pipeline import batches

    if images.shape[1:] != model.input_shape[1:]:
        raise ConfigError(f"images were fitted to {images.shape[1:]}, but the model expects {model.input_shape[1:]}")
    in_view = [batches.ordered_batches(images, np.arange(len(images)), features.BATCH_SIZE, v) for v in range(n_views)]
    return np.mean([model.predict(batches, verbose=0) for batches in in_view], axis=0)


if __name__ == "__main__":
    sys.exit(main())
