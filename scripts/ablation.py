"""Which settings help? Each arm is one experiment over five case folds, compared with the first, paired by case.

python scripts/ablation.py [--config configs/binary_200x.yaml] [--arms frozen | tuned] [--section.name value ...]
Arms differ in the settings named below and take all others from --config. Frozen heads cost seconds once their features
are made: three seeds. Fine-tuning costs a quarter of an hour an arm on 2 cores: one seed. Every run is an ordinary,
resumable run of `train`; the result is <run.reports>/ablation-<arms>-<data>.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from breakhis_cls import config
from breakhis_cls.data.dataset import load_dataset
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.evaluation import bootstrap, comparison, metrics, predictions
from breakhis_cls.evaluation.experiments import Experiment
from breakhis_cls.files import write_csv, write_text
from breakhis_cls.modeling import run_folder
from breakhis_cls.pipeline.pixel_store import PixelStore
from breakhis_cls.reports import plots, text
from breakhis_cls.train import train_run

SEEDS = range(3)
SHOWN = ("roc_auc", "log_loss", "balanced_accuracy", "image_accuracy")
BASELINE = "conv5"
PLAIN = {
    "model": {"features": ("conv5",)}, "head": {"views": 1}, "tune": {"part": "none"},
    "augment": {"stain": 0.0, "test_views": 1},
}  # fmt: skip
CONV4, BOTH = {"model": {"features": ("conv4",)}}, {"model": {"features": ("conv4", "conv5")}}
VIEWS, TEST_VIEWS = {"head": {"views": 8}}, {"augment": {"test_views": 8}}
FROZEN = {
    BASELINE: {},
    "conv4": CONV4,
    "conv4 and conv5": BOTH,
    "conv5, 8 views": VIEWS,
    "conv4, 8 views": CONV4 | VIEWS,
    "conv4 and conv5, 8 views": BOTH | VIEWS,
    "conv5, 8 views, 8 at test": VIEWS | TEST_VIEWS,
    "conv4, 8 views, 8 at test": CONV4 | VIEWS | TEST_VIEWS,
}
TUNED = {
    "conv5 tuned": {"tune": {"part": "conv5"}},
    "conv5 tuned, stain 0.2": {"tune": {"part": "conv5"}, "augment": {"stain": 0.2}},
}


class Ablation(config.Config):
    """An experiment, and how much is varied."""

    arms: Literal["frozen", "tuned"] = "frozen"
    """frozen: heads on conv4, conv5 and both, on one view and eight. tuned: the head alone, then conv5 fine-tuned with
    and without stain augmentation, each scored on one view and on eight."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train what is not trained yet, then compare, write and print."""
    asked = config.parse_settings(Ablation, argv, "ablation", __doc__ or "")
    base = config.Config.model_validate(asked.model_dump(exclude={"arms"}))
    arms = {}
    for name, changes in (FROZEN if asked.arms == "frozen" else {BASELINE: {}} | TUNED).items():
        content, runs = base.model_dump(), []
        for section, values in (*PLAIN.items(), *changes.items()):
            content[section] |= values
        for seed in SEEDS[:1] if name in TUNED else SEEDS:
            for fold in range(base.split.n_folds):
                content["split"]["fold"], content["run"]["seed"] = fold, seed
                runs.append(train_run(config.Config.model_validate(content), report=False))
        arms[name] = [run.folder / "predictions.csv" for run in runs]
        if name in TUNED:
            arms[name + ", 8 at test"] = [predict_in_eight_views(run) for run in runs]
    experiments = [
        Experiment(name, (), pd.concat(map(predictions.read_predictions, paths)).reset_index(drop=True))
        for name, paths in arms.items()
    ]
    write_results(experiments, base.run.reports / f"ablation-{asked.arms}-{experiments[0].meta('data')}")
    return DONE


def predict_in_eight_views(run: run_folder.RunFolder) -> Path:
    """The run's predictions made once more, as the mean over eight views; kept beside the run's own."""
    path = run.folder / "in_eight_views" / "predictions.csv"
    if not path.is_file():
        from breakhis_cls.modeling import network, training  # TensorFlow, which train_run has set up

        augment = run.settings.augment.model_copy(update={"test_views": 8})
        settings = run.settings.model_copy(update={"augment": augment})
        dataset = load_dataset(settings)
        store = PixelStore.open(dataset.images, dataset.root, settings.image, settings.data.cache)
        trained = training.TrainingRun(settings, dataset, store, run)
        probabilities = trained.predict(network.load_run_model(run.folder))
        model = predictions.read_predictions(run.folder / "predictions.csv")["model"].iloc[0]
        run_folder.RunFolder(path.parent, settings).write_predictions(dataset, probabilities, model)
    return path


def write_results(experiments: list[Experiment], out: Path) -> None:
    """arms.csv, differences.csv, ablation.md and a figure for each metric; every arm is compared with the first."""
    # --- differences, corrected over all arms and not over the one pair ---
    first, *others = experiments
    entries: list[dict[str, Any]] = [
        {"arm": other.name} | entry
        for other in others
        for entry in comparison.compare_experiments([first, other], [first.test, other.test])
        if entry["metric"] in SHOWN
    ]
    words = metrics.metric_words(predictions.is_binary(first.table))
    for metric in SHOWN:
        of_metric = [entry for entry in entries if entry["metric"] == metric]
        for entry, p in zip(of_metric, comparison.holm_adjust([entry["p"] for entry in of_metric]), strict=True):
            entry["p_holm"] = p
        figure = plots.differences(of_metric, [entry["arm"] for entry in of_metric], words[metric][0])
        plots.save(figure, out, f"ablation_{metric}")

    # --- each arm alone, and the page's table ---
    lines = ["| arm | seeds | ROC AUC | log loss | minus the first: ROC AUC | log loss |", "|---|---|---|---|---|---|"]
    rows = []
    for experiment in experiments:
        row: dict[str, Any] = {"arm": experiment.name, "seeds": experiment.test["seed"].nunique()}
        stratum = metrics.compute_stratum(experiment.test, "pooled", bootstrap.N_RESAMPLES, 0, SHOWN)
        for metric, result in stratum.items():
            row |= {metric: result["value"], f"{metric}_low": result["low"], f"{metric}_high": result["high"]}
        rows.append(row)
        of_arm = {entry["metric"]: entry for entry in entries if entry["arm"] == experiment.name}
        cells = [text.estimate(stratum[metric]) for metric in SHOWN[:2]]
        for e in (of_arm.get(metric) for metric in SHOWN[:2]):
            span = f" ({e['low']:+.3f} to {e['high']:+.3f})" if e and e["low"] is not None else ""
            cells.append(f"{e['difference']:+.3f}{span}" if e else "")
        lines.append(f"| {row['arm']} | {row['seeds']} | {' | '.join(cells)} |")
    write_csv(out / "arms.csv", pd.DataFrame(rows))
    write_csv(out / "differences.csv", pd.DataFrame(entries).drop(columns=["a", "b"]))
    write_text(out / "ablation.md", "\n".join(lines) + "\n")
    print("\n".join(lines), out, sep="\n")


if __name__ == "__main__":
    sys.exit(main())
