"""Train one model, predict, and write its report. The same command again continues it, or finds it finished.

examples:
  breakhis train --config binary_200x                                        a frozen ResNet50, on a laptop
  breakhis train --config finetune_200x --split.fold 2 --data.root FOLDER    fine-tuned, on a GPU
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from . import config, files
from .errors import DONE, exits_cleanly
from .parallel import count_cores, format_duration
from .reports.trained_run import TrainedRun

if TYPE_CHECKING:
    from .data.dataset import Dataset
    from .modeling.training import TrainingRun


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train one run, write its report, and print the result."""
    run = train_run(config.parse_settings(config.Config, argv, "breakhis train", __doc__))
    from .data import splits
    from .evaluate import print_headline

    print()
    print_headline(run.folder)
    print(f"\nrun:    {run.folder}\nreport: {run.report()}")
    if (n_folds := splits.count_folds(run.settings.split)) > 1:
        # One fold of five has three or four benign cases, which are too few for an interval.
        print(f"all {n_folds} folds, pooled, with intervals: breakhis sweep --base {run.folder}")
    return DONE


def train_run(settings: config.Config, report: bool = True, intervals: bool = True) -> TrainedRun:
    """Train, predict, score and report one run, or what of it is not finished yet.

    intervals: False leaves them to a report. Raises DataError for images or splits that cannot be used, ModelError for
    weights, RunError if the run is in use.
    """
    from .data.dataset import load_dataset
    from .modeling import weights

    # --- images and split ---
    files.check_folder(settings.run.reports, "--run.reports")
    identity = weights.encoder_identity(settings)  # a file that is missing, before images are decoded
    dataset = load_dataset(settings)
    for message in dataset.warnings:
        print(f"warning: {message}", file=sys.stderr)

    from .evaluation import metrics, predictions
    from .modeling import devices, reference, run_folder, training

    tuned = f", {settings.tune.part} fine-tuned" if settings.fine_tunes else ""
    kind = f"{settings.head.kind} head" if settings.head.epochs else "head"
    shots = f", {settings.head.shots} shots" if settings.head.shots else ""
    title = f"{weights.encoder_title(settings)}, {kind}{shots}{tuned}"
    name = run_folder.run_name(settings, dataset.sha256, identity, dataset.split)
    with run_folder.open_run(settings, name) as run:
        job = training.TrainingRun(settings, dataset, run)
        if run.finished:
            print(f"{run.folder} is finished; nothing to do")
        else:
            print(describe_plan(settings, dataset, title, run.folder))

            # --- head on frozen features, then fine-tuning ---
            files.write_csv(run.folder / "split.csv", dataset.split)
            model = job.fit()

            # --- predictions by models that were not fitted on the image ---
            run.write_predictions(dataset, job.predict(model), title)

            # --- where and how it was made ---
            seconds = [f"{phase} {format_duration(cost['seconds'])}" for phase, cost in job.costs.items()]
            peak = max(cost["peak_gib_process"] for cost in job.costs.values())
            print(f"took {', '.join(seconds)}; at most {peak:.1f} GiB of memory", file=sys.stderr)
            # imagenet and random are no file of the user's, and have no SHA-256.
            sha256 = None if identity in ("imagenet", "random") else identity
            environment = devices.environment(settings.run) | {
                "git_commit": _git_commit(),
                "data": dataset.describe(),
                "weights": {"name": weights.encoder_title(settings), "sha256": sha256},
                "k": getattr(model, "k", None),  # of nearest neighbours, chosen on inner folds
                "phases": job.costs,
                "warnings": dataset.warnings,
            }
            files.write_json(run.folder / "environment.json", environment)

            # --- metrics.json last: it marks the run as finished ---
            # A sweep's report resamples the cases of all its runs at once, so that not each of them does.
            table = predictions.read_predictions(run.folder / "predictions.csv")
            run.finish(metrics.compute_metrics(table) if intervals else metrics.compute_metrics(table, n_resamples=0))
        trained = TrainedRun(run.folder, settings)
        if report:  # also of a finished run: a kill may fall before these
            reads_images = not settings.features.source and settings.head.kind in ("logistic", "keras")
            if reads_images and not (run.folder / reference.NAME).is_file():
                _write_reference(trained, job)
            trained.report()
    return trained


def _write_reference(run: TrainedRun, job: TrainingRun) -> None:
    """reference.npz: features of the images that the model was fitted on, and the temperature from validation."""
    import numpy as np

    from .evaluation import calibration, predictions
    from .modeling import features, head, reference

    # Validation stops fine-tuning, and is new to the model.
    settings, dataset, store = run.settings, job.dataset, job.store
    rows = np.flatnonzero(dataset.in_part("train", *([] if settings.fine_tunes else ["validation"])))
    hashes = dataset.images["pixel_sha256"].to_numpy()[rows]
    pooled = features.backbone_features(settings, hashes, store.array, store.rows[rows])

    validation = predictions.select_part(run.predictions, "validation")
    present = [predictions.class_names(validation)[at] for at in np.unique(predictions.true_labels(validation))]
    temperature, why_not = calibration.fit_temperature(validation, present) if len(validation) else (1.0, "no images")
    about = {"temperature": 1.0 if why_not else temperature, "not_calibrated": why_not, "data": dataset.name}
    about |= {"features": head.head_settings(settings)}
    split, truth = dataset.split.iloc[rows], "label" if dataset.task == "binary" else "subtype"
    file, case, label, magnification = (split[name].to_numpy() for name in ("file", "case", truth, "magnification"))
    built = reference.build_reference(pooled, file, case, label, magnification, about)
    reference.save_reference(run.folder, built)


def describe_plan(settings: config.Config, dataset: Dataset, model: str, folder: Path) -> str:
    """What a run is about to do: images, slides and cases of each part and class, model, phases, machine, folders."""
    from .data import splits
    from .modeling import devices
    from .reports import text

    # --- a row for each part, with the cases of each class ---
    truth = "label" if dataset.task == "binary" else "subtype"
    table = dataset.split.groupby("part").agg(
        images=("file", "size"), slides=("slide", "nunique"), cases=("case", "nunique")
    )
    for name in dataset.classes:
        table[f"{name} cases"] = dataset.split[dataset.split[truth] == name].groupby("part")["case"].nunique()
    table = table.reindex([part for part in ("train", "validation", "test") if part in table.index])

    head, tune, source, phases = settings.head, settings.tune, settings.features.source, []
    if head.epochs:
        kinds = {"logistic": "logistic regression", "knn": "nearest neighbours", "prototype": "nearest class mean"}
        by_keras = f"head by Keras, up to {head.epochs} epochs in batches of {head.batch_size}"
        phases.append(f"embeddings from {source}" if source else "features of the frozen backbone, computed once")
        phases.append(kinds.get(head.kind, by_keras))
    if settings.fine_tunes:
        blocks = "all blocks" if tune.part == "all" else tune.part
        phases.append(f"fine-tuning of {blocks}, up to {tune.epochs} epochs in batches of {tune.batch_size}")
    machine, n_folds = devices.numerics(settings.run), splits.count_folds(settings.split)
    device = f"{', '.join(machine['devices'])}, {count_cores()} cores, {machine['precision']}"
    rows = {
        "data": f"{dataset.name} in {dataset.root}",
        "split": f"protocol {settings.split.protocol}, fold {settings.split.fold} of {n_folds} (counted from 0)",
        "model": model,
        "phases": ", then ".join(phases),
        "device": device + (", repeatable" if settings.run.deterministic else ""),
        "run": folder,
        "report": settings.run.reports / folder.name,
    }
    lines = [f"{name + ':':<8}{value}" for name, value in rows.items()]
    notes = [sentence for _, sentence in text.banners(settings.split.protocol, dataset.name)]
    return "\n".join([*lines, "", table.fillna(0).astype(int).rename_axis(None).to_string(), "", *notes])


def _git_commit() -> str | None:
    """The commit of the checkout that holds this package; None for an installed wheel."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():  # else git would answer for whatever repository holds site-packages
        return None
    if not shutil.which("git"):  # in a container
        print("warning: the commit is not recorded, since git cannot be run", file=sys.stderr)
        return None
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, encoding="utf-8", check=False)
    return answer.stdout.strip() or None


if __name__ == "__main__":
    sys.exit(main())
