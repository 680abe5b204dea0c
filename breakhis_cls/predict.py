"""Predict your own images with a trained model. A research tool, not a medical device.

examples:
  breakhis predict runs/binary_200x-0-0-1234abcd field.png              prints a table
  breakhis predict runs/binary_200x-0-0-1234abcd images --out out.csv
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from . import config, files
from .errors import DONE, ConfigError, DataError, exits_cleanly, list_first
from .names import IMAGE_SUFFIXES
from .parallel import count_cores, show_progress

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

CHUNK = 128  # images in memory at a time


class Arguments(config.Section):
    """Arguments of the command."""

    run: Annotated[config.UserPath, config.Positional("RUN")]
    """Folder of a finished run, or the model.keras in it."""
    images: Annotated[tuple[config.UserPath, ...], config.Positional("IMAGE_OR_FOLDER")]
    """Image files of any name and size, or folders of them."""
    out: config.UserPath | None = None
    """CSV file to write; by default the table is printed."""
    skip_broken: bool = False
    """Leave out files that cannot be read, instead of stopping."""
    quantile: config.Quantile = config.REFUSE_BEYOND
    """Refuse images that are farther from the training images than this share of those, their own case left out."""
    magnification: config.Magnification | None = None
    """Magnification of the images; refuse them all if the model was not trained at it."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print or write a row for each image; model and summary go to stderr, so that the table can be piped."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis predict", __doc__)
    if arguments.out is not None:
        if arguments.out.is_dir():
            raise ConfigError(f"--out {arguments.out} is a folder; name a CSV file in it")
        files.check_folder(arguments.out.parent, "--out")
    folder = arguments.run if arguments.run.is_dir() else arguments.run.parent
    record, data = folder / "environment.json", "data that are not recorded beside it"
    if record.is_file():
        data = json.loads(record.read_text(encoding="utf-8"))["data"]["name"]
    about = f"model:  {arguments.run}, trained on {data}\nResearch use only: this is not a medical device."
    print(about, file=sys.stderr)

    table = predict_images(
        arguments.run, arguments.images, arguments.skip_broken, arguments.quantile, arguments.magnification
    )
    if arguments.out is None:
        print(table.to_csv(index=False), end="")
    else:
        files.write_csv(arguments.out, table)
    counts = ", ".join(f"{n:,} {name}" for name, n in table["predicted"].value_counts().items())
    refused, where = table["refused"].eq(True).sum(), f"\ntable:  {arguments.out}" if arguments.out else ""
    print(f"result: {len(table):,} images, of which predicted: {counts}; refused: {refused:,}{where}", file=sys.stderr)
    return DONE


def predict_images(
    run: Path | str, sources: Sequence[Path | str], skip_broken: bool = False,
    quantile: float = config.REFUSE_BEYOND, magnification: int | None = None,
) -> pd.DataFrame:  # fmt: skip
    """A row per image, sorted within each folder: file, p_<class> (raw), predicted, probability (calibrated), refused,
    refusal_reason, distance_percentile and nearest_<class>, a training image; docs/refusal.md explains them.

    Images are resized as in the run's training, and read a few at a time. Raises DataError if there is no image or one
    cannot be read, ModelError if the model cannot be opened.
    """
    from .data import index

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

    from .modeling.predictor import open_predictor

    predictor = open_predictor(Path(run), quantile)
    import numpy as np
    import pandas as pd
    from PIL import Image

    from .data import png
    from .pipeline.pixel_store import fit_image

    def read(path: Path) -> np.ndarray | str:
        """The image as the network wants it, or why it cannot be read."""
        try:
            return fit_image(png.decode_any(path), predictor.settings.image)
        except (OSError, ValueError, DataError, Image.DecompressionBombError) as error:
            return f"{path}: {error}"

    # --- a chunk at a time, so that memory holds the pixels of one ---
    tables, broken = [], []
    chunks = [found[start : start + CHUNK] for start in range(0, len(found), CHUNK)]
    with ThreadPoolExecutor(count_cores()) as pool:
        for chunk in show_progress(chunks, f"predicting {len(found):,} images", len(chunks)):
            fields = dict(zip(chunk, pool.map(read, chunk), strict=True))
            broken += [field for field in fields.values() if isinstance(field, str)]
            pixels = {str(path): field for path, field in fields.items() if not isinstance(field, str)}
            if pixels and (skip_broken or not broken):  # else the other files are only checked
                table, _ = predictor.predict(np.stack([*pixels.values()]), magnification)
                table.insert(0, "file", [*pixels])
                tables.append(table)
    if broken and not (skip_broken and tables):
        advice = "replace them, or leave them out with --skip-broken:" if len(broken) < len(found) else "none is left:"
        raise DataError(f"{len(broken)} of {len(found)} files cannot be read as images; {advice}{list_first(broken)}")
    if not predictor.reference:
        print(f"note: {run} has no reference.npz, so nothing is refused; run its train command", file=sys.stderr)
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    sys.exit(main())
