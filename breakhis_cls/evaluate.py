"""Metrics, figures and report: `python -m breakhis_cls.evaluate RUN_OR_CSV [...] [--out DIR]`. No
TensorFlow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from . import config
from .config import Section
from .errors import DONE, DataError, exits_cleanly

if TYPE_CHECKING:
    import pandas as pd

    from .evaluation.experiments import Experiment


class Arguments(Section):
    """What the command line says."""

    sources: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_OR_CSV [...]")]
    """Run folders or predictions.csv files; folds and seeds of one experiment are pooled."""
    out: Path | None = None
    """Folder to write; by default reports/<run>."""
    common: bool = False
    """Compare experiments on the images that all of them tested, where their test sets differ."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write the report of the runs or tables named, and say where it lies."""
    given = config.parse_arguments(
        Arguments,
        argv,
        "breakhis evaluate",
        "Metrics, figures and report from runs or from any predictions.csv.",
    )
    folder = evaluate_runs(list(given.sources), given.out, common=given.common)
    print(f"report: {folder / 'index.html'}")
    return DONE


def evaluate_runs(
    sources: list[Path], out: Path | None = None, images_root: Path | None = None, common: bool = False
) -> Path:
    """Score run folders or tables and write the report; returns its folder.

    Folds and seeds of one experiment are pooled; several experiments are compared, each with a report of its
    own in a folder below. `images_root` is what the tables' files are relative to; without it the run's
    config says, and where the images are absent their pictures are left out. Raises DataError on tables that
    cannot be scored or compared.
    """
    from .evaluation import comparison
    from .evaluation import experiments as read_sources

    if not sources:
        raise DataError("nothing to evaluate; name run folders or predictions.csv files")
    experiments = read_sources.group_experiments([read_sources.read_source(path) for path in sources])
    folder = out or _default_folder(experiments)
    if len(experiments) == 1:
        _write(experiments[0], folder, images_root)
    else:
        _compare(experiments, comparison.align_experiments(experiments, common), folder, images_root)
    return folder


def _write(experiment: Experiment, folder: Path, images_root: Path | None) -> dict[str, Any]:
    from .evaluation import metrics
    from .files import write_json
    from .reports import report

    numbers = metrics.compute_metrics(experiment.table)
    write_json(folder / "metrics.json", numbers)
    report.write_report(experiment, numbers, folder, images_root or _images_root(experiment))
    return numbers


def _compare(experiments: list[Experiment], tables: list[pd.DataFrame], folder: Path, images_root: Path | None) -> None:
    from .files import write_json
    from .reports import comparison_report

    numbers = {one.name: _write(one, folder / one.name, images_root) for one in experiments}
    found = comparison_report.compute_comparison(experiments, tables)
    write_json(folder / "metrics.json", {"experiments": numbers, **found})
    comparison_report.write_comparison(experiments, tables, numbers, found, folder)


def _default_folder(experiments: list[Experiment]) -> Path:
    settings = experiments[0].settings
    name = (
        experiments[0].name if len(experiments) == 1 else " vs ".join(one.name for one in experiments).replace(" ", "-")
    )
    return (settings.run.reports if settings else Path("reports")) / name[:120]


def _images_root(experiment: Experiment) -> Path | None:
    """Where the run's config finds its images; None where they are not on this machine."""
    if experiment.settings is None:
        return None
    from .data import index

    try:
        return index.find_root(experiment.settings.data)
    except DataError:
        return None


if __name__ == "__main__":
    sys.exit(main())
