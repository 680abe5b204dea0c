"""One run: `python -m breakhis_cls.train --config FILE [--section.name value ...]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config, files
from .errors import DONE, exits_cleanly

if TYPE_CHECKING:
    from .data.dataset import Dataset
    from .modeling.run_folder import RunFolder


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train one run and write its report; the same command again goes on, or finds it done."""
    settings = config.parse_settings(
        config.Config, argv, "breakhis train", "Train one run, score it and write its report."
    )
    run = train_run(settings)
    print(f"run:    {run.folder}\nreport: {run.report / 'index.html'}")
    return DONE


def train_run(settings: config.Config, report: bool = True) -> RunFolder:
    """From images to metrics and a report: split, features, head, fine-tuning, predictions. Returns the run."""
    from .data import dataset as materials
    from .modeling import devices

    material = materials.load_dataset(settings)
    for sentence in material.warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    from . import evaluate
    from .modeling import run_folder, weights

    name = run_folder.run_name(settings, material.sha256, weights.weights_identity(settings.model), material.split)
    with run_folder.open_run(settings, name) as run:
        if run.finished:
            print(f"{run.folder} is finished; nothing to do")
        else:
            _train(settings, material, run)
        if report and not (run.report / "index.html").is_file():
            evaluate.evaluate_runs([run.folder], out=run.report, images_root=material.root)
    return run


def _train(settings: config.Config, material: Dataset, run: RunFolder) -> None:
    from .evaluation import metrics, predictions
    from .modeling import training
    from .pipeline.pixel_store import PixelStore

    files.write_csv(run.folder / "split.csv", material.split)
    store = PixelStore.open(material.images, material.root, settings.image, settings.data.cache)
    training = training.TrainingRun(settings, material, store, run)
    probabilities = training.predict(training.fit())
    for phase, cost in training.costs.items():
        print(f"{phase}: " + ", ".join(f"{name} {number:,.2f}" for name, number in cost.items()), file=sys.stderr)
    files.write_json(run.folder / "environment.json", _environment(settings, material, training.costs))
    run.write_predictions(material, probabilities, _title(settings))
    run.finish(metrics.compute_metrics(predictions.read_predictions(run.folder / "predictions.csv")))


def _title(settings: config.Config) -> str:
    """Of the model, in tables and reports."""
    from .modeling import weights

    tune = settings.tune
    tuned = f", {tune.part} fine-tuned" if tune.part != "none" and tune.epochs else ""
    return f"{weights.weights_title(settings.model)}, head on {'+'.join(settings.model.features)}{tuned}"


def _environment(settings: config.Config, material: Dataset, costs: dict[str, dict[str, float]]) -> dict[str, Any]:
    from .modeling import devices, weights

    return devices.environment() | {
        "git_commit": _git_commit(),
        "data": material.describe(),
        "weights": {"name": weights.weights_title(settings.model), "sha256": weights.weights_sha256(settings.model)},
        "phases": costs,
        "warnings": material.warnings,
    }


def _git_commit() -> str | None:
    """Of the package's own checkout; None when it was installed otherwise."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
