"""Compute metrics, figures and a report from predictions alone; needs no TensorFlow.

examples:
  breakhis evaluate runs/binary_200x-*     the folds of an experiment, pooled
  breakhis evaluate mine.csv theirs.csv    two tables of predictions, compared
"""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from . import config, files
from .errors import DONE, DataError, exits_cleanly

if TYPE_CHECKING:
    from .evaluation.experiments import Experiment


class Arguments(config.Section):
    """Arguments of the command."""

    sources: Annotated[tuple[config.UserPath, ...], config.Positional("RUN_OR_CSV")]
    """Run folders or predictions.csv files; folds and seeds of one experiment are pooled."""
    out: config.UserPath | None = None
    """Output folder; by default reports/<run>."""
    common: bool = False
    """If the test sets of experiments differ, compare them on the images that all of them tested."""
    prevalence: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of malignant, such as 0.1 0.3, for PPV and NPV; the first also for the decision curve."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write the report of runs or tables, and print the main numbers."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis evaluate", __doc__)
    folder = evaluate_runs(arguments.sources, arguments.out, common=arguments.common, prevalences=arguments.prevalence)
    print_headline(folder)
    print(f"report: {folder / 'index.html'}")
    return DONE


def evaluate_runs(
    sources: Sequence[Path | str], out: Path | str | None = None, images_root: Path | None = None,
    common: bool = False, prevalences: Sequence[float] = (),
) -> Path:  # fmt: skip
    """Score run folders or tables of predictions and write the report; returns its folder. Folds and seeds of one
    experiment are pooled; several experiments are compared, each with a report of its own in a subfolder. `images_root`
    is the folder that the tables' files are relative to, by default the one in the run's config; without images the
    report has no pictures of them. `prevalences` of malignant are for PPV and NPV. Raises DataError for tables that
    cannot be scored or compared."""
    from .evaluation import comparison, experiments
    from .reports import comparison_report

    if not sources:
        raise DataError("nothing to evaluate; name run folders or predictions.csv files")
    found = experiments.group_experiments([experiments.read_source(Path(source)) for source in sources])
    compares = len(found) > 1
    tables = comparison.align_experiments(found, common) if compares else []  # fails before anything is written
    settings, name = found[0].settings, "-vs-".join(one.name for one in found)
    name = name.replace(" ", "-") if compares else name
    reports = settings.run.reports if settings else Path("reports")
    folder = Path(out or reports / name[:120])  # file systems limit a name to 255 bytes
    files.check_folder(folder, "--out")

    places = {one.name: folder / one.name if compares else folder for one in found}
    numbers = {one.name: write_experiment(one, places[one.name], images_root, prevalences) for one in found}
    if compares:
        comparison_report.write_comparison(found, tables, numbers, folder)
    return folder


def write_experiment(
    experiment: "Experiment", folder: Path, images_root: Path | None = None, prevalences: Sequence[float] = ()
) -> dict[str, Any]:
    """Write metrics.json and the report of one experiment, its folds and seeds pooled; returns its metrics."""
    from .data import index
    from .evaluation import experiments, metrics
    from .reports import report, text

    if warning := text.half_done_seeds(experiment):
        print(f"warning: {warning}", file=sys.stderr)
    if images_root is None and experiment.settings:
        with contextlib.suppress(DataError):  # the images are not on this machine
            images_root = index.find_root(experiment.settings.data)
    numbers = metrics.compute_metrics(experiment.table)
    if contradictions := experiments.split_contradictions(experiment):
        numbers["contradictions"] = contradictions
    files.write_json(folder / "metrics.json", numbers)
    report.write_report(experiment, numbers, folder, images_root, prevalences)
    return numbers


def print_headline(folder: Path) -> None:
    """Print the main metrics and the confusion matrix of a folder's metrics.json, for each experiment in it."""
    from .reports import text

    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for name, metrics in content.get("experiments", {folder.name: content}).items():
        print(text.summary(metrics, name))


if __name__ == "__main__":
    sys.exit(main())
