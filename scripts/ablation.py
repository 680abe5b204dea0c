"""Which settings help? Each arm is one experiment over five case folds, compared with the first, paired by case.

python scripts/ablation.py [--config binary_200x] [--arms frozen | tuned | probes] [--section.name value ...]
Arms differ in the settings named below and take all others from --config. They are compared on validation rows: of a
frozen head every image that it was fitted on, predicted out of fold; of a fine-tuned model its validation part. Test
rows are not read, so that the arm that is chosen can be scored on them. Frozen heads cost seconds once their features
are made; fine-tuning costs a quarter of an hour an arm on 2 cores. `probes` compares the kinds of heads, few shots over
ten draws, and the null, the same probes on five randomly initialised backbones; nothing is chosen between them, so
their test rows are compared too, in the folder that ends in `-test`. Every run is an ordinary, resumable run of
`train`; the result is <run.reports>/ablation-<arms>-<data>. The arm that was chosen is confirmed on a second sample,
once: `--confirm ARM` compares it with the first arm on test rows, in the folder that ends in `-confirmed`.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from breakhis_cls import config
from breakhis_cls.errors import DONE, ConfigError, exits_cleanly
from breakhis_cls.evaluation import bootstrap, comparison, metrics, predictions
from breakhis_cls.evaluation.experiments import Experiment
from breakhis_cls.files import write_csv, write_text
from breakhis_cls.reports import plots, text
from breakhis_cls.train import train_run

SHOWN = ("roc_auc", "log_loss", "balanced_accuracy", "image_accuracy")
FROZEN: dict[str, dict[str, Any]] = {
    "conv4": {},
    "conv3": {"model.features": ("conv3",)},
    "conv5": {"model.features": ("conv5",)},
    "conv3 and conv4": {"model.features": ("conv3", "conv4")},
    "conv3 and conv5": {"model.features": ("conv3", "conv5")},
    "conv4 and conv5": {"model.features": ("conv4", "conv5")},
    "conv4, weights by image": {"data.balance": "images"},
    "conv4, classes balanced": {"data.balance": "class_weights"},
    "conv4, C 0.005": {"head.C": 0.005},
    "conv4, C 0.02": {"head.C": 0.02},
    "conv4, C 0.1": {"head.C": 0.1},
    "conv4, C 0.5": {"head.C": 0.5},
}
NULL = {"model.weights": "random"}
PROBES: dict[str, dict[str, Any]] = {
    "logistic": {},
    "keras": {"head.kind": "keras"},
    "knn": {"head.kind": "knn"},
    "prototype": {"head.kind": "prototype"},
    **{f"prototype, shots {n}": {"head.kind": "prototype", "head.shots": n} for n in (1, 2, 4, 8, 16)},
    "null, logistic": NULL,
    "null, knn": NULL | {"head.kind": "knn"},
    "null, prototype": NULL | {"head.kind": "prototype"},
}
CONV5 = {"model.features": ("conv5",)}
TUNED: dict[str, dict[str, Any]] = {
    "conv4": {"tune.part": "none"},
    "conv4, head by Keras": {"tune.part": "none", "head.kind": "keras"},
    "conv5": CONV5 | {"tune.part": "none"},
    "conv5 tuned": CONV5 | {"tune.part": "conv5", "augment.stain": 0.0},
}


class Ablation(config.Config):
    """An experiment, and how much is varied."""

    arms: Literal["frozen", "tuned", "probes"] = "frozen"
    """frozen: logistic heads on blocks, weights and C. tuned: heads by logistic regression and by Keras, and
    conv5 fine-tuned from its head. probes: kinds of heads, few shots, the null."""
    confirm: str = ""
    """Name of the arm to compare with the first on test rows, and nothing else."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train what is not trained yet, then compare, write and print."""
    asked = config.parse_settings(Ablation, argv, "ablation", __doc__ or "")
    base = config.Config.model_validate(asked.model_dump(exclude={"arms", "confirm"}))
    arms = {"frozen": FROZEN, "tuned": TUNED, "probes": PROBES}[asked.arms]
    if asked.confirm:
        if asked.confirm not in list(arms)[1:]:
            raise ConfigError(f"--confirm is {asked.confirm!r}; expected one of: {', '.join(list(arms)[1:])}")
        arms = {name: changes for name, changes in arms.items() if name in (next(iter(arms)), asked.confirm)}
    reads_test = asked.arms == "probes" or bool(asked.confirm)
    experiments, tested = [], []
    for name, changes in arms.items():
        tables, tables_of_test = [], []
        n_seeds = 10 if "head.shots" in changes else 5 if "model.weights" in changes else 1
        for seed, fold in itertools.product(range(base.run.seed, base.run.seed + n_seeds), range(base.split.n_folds)):
            given = changes | {"split.fold": fold, "run.seed": seed, "run.save_model": False}
            run = train_run(config.change_settings(base, given), report=False, intervals=False)
            if reads_test:
                tables_of_test.append(predictions.select_part(run.predictions, "test"))
            rows = predictions.read_predictions(run.folder / "predictions.csv", only="validation")
            if asked.arms == "tuned":  # on the part that a fine-tuned model is validated on, and no more
                split = pd.read_csv(run.folder / "split.csv").set_index("file")["part"]
                rows = rows[rows["file"].map(split) == "validation"]
            tables.append(rows)
        if asked.arms != "probes" or name != "keras":  # which validates on its validation part, the others on all seen
            experiments.append(Experiment(name, (), pd.concat(tables, ignore_index=True)))
        if tables_of_test:
            tested.append(Experiment(name, (), pd.concat(tables_of_test, ignore_index=True)))
    out = base.run.reports / f"ablation-{asked.arms}-{experiments[0].meta('data')}"
    if not asked.confirm:
        write_results(experiments, out)
    if tested:
        write_results(tested, out.with_name(f"{out.name}-{'confirmed' if asked.confirm else 'test'}"))
    return DONE


def write_results(experiments: list[Experiment], out: Path) -> None:
    """arms.csv, differences.csv, ablation.md and a figure for each metric; every arm is compared with the first."""
    # --- differences, corrected over all arms and not over the one pair ---
    first, *others = experiments
    entries: list[dict[str, Any]] = [
        {"arm": other.name} | entry
        for other in others
        for entry in comparison.compare_experiments([first, other], [first.table, other.table])
        if entry["metric"] in SHOWN
    ]
    words = metrics.metric_words(predictions.is_binary(first.table))
    for metric in SHOWN:
        of_metric = [entry for entry in entries if entry["metric"] == metric]
        for entry, p in zip(of_metric, comparison.holm_adjust([entry["p"] for entry in of_metric]), strict=True):
            entry["p_holm"] = p
        figure = plot_differences(of_metric, [entry["arm"] for entry in of_metric], words[metric][0])
        plots.save(figure, out, f"ablation_{metric}", titled=True)

    # --- each arm alone, and the page's table ---
    lines = ["| arm | ROC AUC | log loss | minus the first: ROC AUC | log loss |", "|---|---|---|---|---|"]
    rows = []
    for experiment in experiments:
        stratum = metrics.compute_stratum(experiment.table, "pooled", bootstrap.N_RESAMPLES, 0, SHOWN)
        row: dict[str, Any] = {"arm": experiment.name}
        for metric, result in stratum.items():
            row |= {metric: result["value"], f"{metric}_low": result["low"], f"{metric}_high": result["high"]}
        rows.append(row)
        of_arm = {entry["metric"]: entry for entry in entries if entry["arm"] == experiment.name}
        cells = [text.estimate(stratum[metric]) for metric in SHOWN[:2]]
        for entry in (of_arm.get(metric) for metric in SHOWN[:2]):
            cells.append(text.estimate({"value": entry["difference"], **entry}) if entry else "")
        lines.append(f"| {experiment.name} | {' | '.join(cells)} |")
    write_csv(out / "arms.csv", pd.DataFrame(rows))
    write_csv(out / "differences.csv", pd.DataFrame(entries).drop(columns=["a", "b"]))
    write_text(out / "ablation.md", "\n".join(lines) + "\n")
    print("\n".join(lines), out, sep="\n")


@mpl.rc_context(plots.STYLE)
def plot_differences(entries: list[dict[str, Any]], pairs: list[str], label: str) -> Figure:
    """Difference of one metric for each pair of models: dot, 95 % interval, and in grey what would mostly be missed.

    entries: of `comparison.compare_experiments`.
    """
    known = [(pair, entry) for pair, entry in zip(pairs, entries, strict=True) if entry["difference"] is not None]
    figure, axes = plots.new_figure(plots.COLUMN_IN, 0.28 * len(known) + 0.7)
    ax = axes[0, 0]
    for at, (_, entry) in enumerate(known):
        if entry["p_holm"] is not None:
            # Grey: a difference inside it would mostly be missed with this number of cases (80 % power).
            reach = entry["detectable"]
            ax.plot([-reach, reach], [at, at], color="#d9d9d9", linewidth=9, solid_capstyle="butt")
            ax.plot([entry["low"], entry["high"]], [at, at], color=plots.BLACK, linewidth=1.4)
        ax.plot(entry["difference"], at, "o", color=plots.BLACK, markersize=4)
    ax.axvline(0, color=plots.GREY, linewidth=0.8)
    ax.set_yticks(range(len(known)), [pair for pair, _ in known])
    ax.set_ylim(max(len(known), 1) - 0.5, -0.5)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel(f"{label}, difference")

    n_significant = sum(entry["p_holm"] is not None and entry["p_holm"] < 0.05 for _, entry in known)
    title = f"{n_significant} of {len(known)} differences significant at 5\u00a0% (Holm)"
    if not known:
        title = "undefined for these test images"
    elif len(known) == 1:
        entry = known[0][1]
        title = f"difference {entry['difference']:+.3f}"
        if entry["p_holm"] is None:
            title += ", not tested"
        else:
            title += f" ({entry['low']:+.3f} to {entry['high']:+.3f})" + ("" if n_significant else ", not significant")
    return plots.add_title(figure, f"{label}: {title}")


if __name__ == "__main__":
    sys.exit(main())
