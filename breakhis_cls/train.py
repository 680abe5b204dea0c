"""One run: `python -m breakhis_cls.train --config FILE [--section.name value ...]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import config
from .errors import DONE, exits_cleanly

if TYPE_CHECKING:
    from .data.dataset import Material
    from .modeling.run_folder import Run


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train one run and write its report; the same command again goes on, or finds it done."""
    settings = config.parse(config.Config, argv, "breakhis train", "Train one run, score it and write its report.")
    run = train(settings)
    print(f"run:    {run.folder}\nreport: {run.report / 'index.html'}")
    return DONE


def train(settings: config.Config, report: bool = True) -> Run:
    """From images to metrics and a report: split, features, head, fine-tuning, predictions. Returns the run."""
    from .data import dataset as materials
    from .modeling import devices

    material = materials.gather(settings)
    for sentence in material.warnings:
        print(f"warning: {sentence}", file=sys.stderr)
    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    from . import evaluate
    from .modeling import network, run_folder

    name = run_folder.name_of(settings, material.sha256, network.weights_id(settings.model), material.split)
    with run_folder.opened(settings, name) as run:
        if run.finished:
            print(f"{run.folder} is finished; nothing to do")
        else:
            _train(settings, material, run)
        if report and not (run.report / "index.html").is_file():
            evaluate.evaluate([run.folder], out=run.report, images_root=material.root)
    return run


def _train(settings: config.Config, material: Material, run: Run) -> None:
    from .evaluation import metrics, predictions
    from .modeling import training
    from .pipeline.pixel_store import PixelStore

    run.write_table("split.csv", material.split)
    store = PixelStore.open(material.images, material.root, settings.image, settings.data.cache)
    training = training.Training(settings, material, store, run)
    probabilities = training.predict(training.fit())
    for phase, cost in training.costs.items():
        print(f"{phase}: " + ", ".join(f"{name} {number:,.2f}" for name, number in cost.items()), file=sys.stderr)
    run.write_json("environment.json", _environment(settings, material, training.costs))
    run.write_predictions(material, probabilities, _title(settings))
    run.finish(metrics.of(predictions.read(run.folder / "predictions.csv")))


def _title(settings: config.Config) -> str:
    """Of the model, in tables and reports."""
    from .modeling import network

    tune = settings.tune
    tuned = f", {tune.part} fine-tuned" if tune.part != "none" and tune.epochs else ""
    return f"{network.title(settings.model)}, head on {'+'.join(settings.model.features)}{tuned}"


def _environment(settings: config.Config, material: Material, costs: dict[str, dict[str, float]]) -> dict[str, Any]:
    from .modeling import devices, network

    return devices.environment() | {
        "git_commit": _git_commit(),
        "data": material.facts(),
        "weights": {"name": network.title(settings.model), "sha256": network.weights_sha256(settings.model)},
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
