"""Compute metrics, figures and a report from predictions alone; needs no TensorFlow.

examples:
  breakhis evaluate runs/binary_200x-*     the folds of an experiment, pooled
  breakhis evaluate mine.csv theirs.csv    two tables of predictions, compared
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from . import config
from .errors import DONE, DataError, exits_cleanly


class Arguments(config.Section):
    """Arguments of the command."""

    sources: Annotated[tuple[config.UserPath, ...], config.Positional("RUN_OR_CSV")]
    """Run folders or predictions.csv files; folds and seeds of one experiment are pooled."""
    out: config.UserPath | None = None
    """Output folder; by default reports/<run>."""
    common: bool = False
    """If the test sets of experiments differ, compare them on the images that all of them tested."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Write the report of runs or tables, and print the main numbers."""
    arguments = config.parse_arguments(Arguments, argv, "breakhis evaluate", __doc__)
    folder = evaluate_runs(arguments.sources, arguments.out, common=arguments.common)
    print_headline(folder)
    print(f"report: {folder / 'index.html'}")
    return DONE


def evaluate_runs(
    sources: Sequence[Path | str], out: Path | str | None = None, images_root: Path | None = None, common: bool = False
) -> Path:
    """Score run folders or tables of predictions and write the report; returns its folder.

    Folds and seeds of one experiment are pooled; several experiments are compared, each with a report of its own in a
    subfolder. `images_root` is the folder that the tables' files are relative to, by default the one in the run's
    config; without images the report has no pictures of them. Raises DataError for tables that cannot be scored or
    compared.
    """
    from .data import index
    from .evaluation import comparison, metrics
    from .evaluation.experiments import group_experiments, read_source, split_contradictions
    from .files import check_folder, write_json
    from .reports import comparison_report, text
    from .reports.report import write_report

    if not sources:
        raise DataError("nothing to evaluate; name run folders or predictions.csv files")
    experiments = group_experiments([read_source(Path(source)) for source in sources])
    compares = len(experiments) > 1
    tables = comparison.align_experiments(experiments, common) if compares else []  # fails before anything is written

    if out is None:
        settings, name = experiments[0].settings, experiments[0].name
        if compares:
            name = "-vs-".join(one.name for one in experiments).replace(" ", "-")
        # file systems limit a name to 255 bytes
        out = (settings.run.reports if settings else Path("reports")) / name[:120]
    folder = Path(out)
    check_folder(folder, "--out")

    # --- a report for each experiment ---
    numbers = {}
    for one in experiments:
        if warning := text.half_done_seeds(one):
            print(f"warning: {warning}", file=sys.stderr)
        subfolder, root = folder / one.name if compares else folder, images_root
        if root is None and one.settings:
            with contextlib.suppress(DataError):  # the images are not on this machine
                root = index.find_root(one.settings.data)
        numbers[one.name] = metrics.compute_metrics(one.table)
        if contradictions := split_contradictions(one):
            numbers[one.name]["contradictions"] = contradictions
        write_json(subfolder / "metrics.json", numbers[one.name])
        write_report(one, numbers[one.name], subfolder, root)

    # --- the comparison ---
    if compares:
        comparison_report.write_comparison(experiments, tables, numbers, folder)
    return folder


def print_headline(folder: Path) -> None:
    """Print image accuracy and ROC AUC of a folder's metrics.json, with 95 % intervals that resample cases."""
    from .evaluation.metrics import SWAPPED, SWAPPED_AUC, metrics_for

    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    for title, metrics in content.get("experiments", {"": content}).items():
        pooled, table = metrics["pooled"], metrics_for(binary="by_class" not in metrics)
        counts = pooled["image_accuracy"]
        tested = f"{counts['n_images']:,} test images, {counts['n_slides']} slides, {counts['n_cases']} cases"
        print(f"{title}: {tested}" if title else tested)
        for sentence in metrics.get("contradictions", []):
            print(f"  warning: {sentence}")
        for name in ("image_accuracy", "roc_auc"):
            result = pooled[name]
            if result["value"] is None:
                shown = f"undefined: {result['undefined']}"
            elif result["low"] is None:
                shown = f"{result['value']:.3f}  (no interval: {result.get('no_interval', 'too few cases')})"
            else:
                shown = f"{result['value']:.3f}  (95 % interval {result['low']:.3f} to {result['high']:.3f})"
            print(f"  {table[name].label:<16}{shown}")
        if pooled["roc_auc"]["value"] is not None and pooled["roc_auc"]["value"] < SWAPPED_AUC:
            print(f"  hint: {SWAPPED}")


if __name__ == "__main__":
    sys.exit(main())
