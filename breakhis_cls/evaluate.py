"""Metrics, figures and report: `python -m breakhis_cls.evaluate RUN_OR_CSV [...] [--out DIR]`. No TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from . import config
from .config import Section
from .errors import DONE, DataError, exits_cleanly

if TYPE_CHECKING:
    from .evaluation.sources import Experiment


class Arguments(Section):
    """What the command line says."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CSV [...]")]
    """Run folders or predictions.csv files; folds and seeds of one experiment are pooled."""
    out: Path | None = None
    """Folder to write; by default reports/<run>."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write the report of the runs or tables named, and say where it lies."""
    given = config.from_command_line(
        Arguments,
        argv,
        "breakhis evaluate",
        "Metrics, figures and report from runs or from any predictions.csv.",
    )
    folder = evaluate(list(given.sources), given.out)
    print(f"report: {folder / 'index.html'}")
    return DONE


def evaluate(sources: list[Path], out: Path | None = None, images_root: Path | None = None) -> Path:
    """Score run folders or tables and write the report; returns its folder.

    `images_root` is what the tables' files are relative to; without it the run's config says, and where the images are
    absent their pictures are left out. Raises DataError on a table that cannot be scored.
    """
    from .evaluation import sources as read_sources

    if not sources:
        raise DataError("nothing to evaluate; name run folders or predictions.csv files")
    experiments = read_sources.experiments([read_sources.read(path) for path in sources])
    folder = out or _default_folder(experiments)
    if len(experiments) > 1:
        raise DataError(f"{len(experiments)} experiments are named; evaluate them one at a time")
    _write(experiments[0], folder, images_root)
    return folder


def _write(experiment: Experiment, folder: Path, images_root: Path | None) -> None:
    from .evaluation import metrics, report
    from .files import write_json

    numbers = metrics.of(experiment.table)
    write_json(folder / "metrics.json", numbers)
    report.write(experiment, numbers, folder, images_root or _images_root(experiment))


def _default_folder(experiments: list[Experiment]) -> Path:
    settings = experiments[0].settings
    return (settings.run.reports if settings else Path("reports")) / experiments[0].name


def _images_root(experiment: Experiment) -> Path | None:
    """Where the run's config finds its images; None where they are not on this machine."""
    if experiment.settings is None:
        return None
    from .data import index

    try:
        return index.root_of(experiment.settings.data)
    except DataError:
        return None


if __name__ == "__main__":
    sys.exit(main())
