"""The page of `breakhis explain`: Grad-CAM heat maps of some test images of a run, and its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import names
from ..evaluation import predictions
from ..evaluation.error_analysis import add_predictions
from ..evaluation.experiments import Experiment
from ..files import write_json, write_text
from . import plots_saliency, report, text
from .plots_saliency import SaliencyImage


def select_examples(test: pd.DataFrame, n: int) -> dict[str, dict[str, pd.DataFrame]]:
    """`{"outcome": {kind: rows}, "subtype": {code: rows}}`: the n most confident test images of each that occurs.

    Rows are of `add_predictions`. Outcomes are true and false positives and negatives (malignant is positive), or
    correct and wrong subtypes.
    """
    rows = add_predictions(test)
    correct = rows["true_label"] == rows["predicted_label"]
    outcomes = {"correctly classified": correct, "misclassified": ~correct}
    if predictions.is_binary(rows):
        positive = rows["predicted_label"] == "malignant"
        outcomes = {
            "true positive": correct & positive, "false positive": ~correct & positive,
            "false negative": ~correct & ~positive, "true negative": correct & ~positive,
        }  # fmt: skip
    # The highest p first, one of each slide before a second of any.
    rows = rows.sort_values(["p", "file"], ascending=[False, True])
    examples = {}
    for name, masks in (("outcome", outcomes), ("subtype", {code: rows["subtype"] == code for code in names.SUBTYPES})):
        some = {kind: rows[mask.loc[rows.index]] for kind, mask in masks.items() if mask.any()}
        examples[name] = {
            kind: found.iloc[np.argsort(found.groupby("slide").cumcount(), kind="stable")[:n]]
            for kind, found in some.items()
        }
    return examples


def spread_over_cases(test: pd.DataFrame, n: int) -> np.ndarray:
    """Places of n test images, one of each case before a second of any."""
    rank = test.groupby("case").cumcount()
    return np.sort(np.lexsort((test["file"], rank))[:n])


def write_saliency_report(
    folder: Path, experiment: Experiment, examples: dict[str, dict[str, pd.DataFrame]],
    images: dict[int, SaliencyImage], sanity: pd.DataFrame, features: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Write index.html, explain.json and the figures into folder; returns what is in explain.json.

    images: by place in the test; sanity: of `gradcam.randomization_check`; features: (n, d) of the test.
    """
    test = experiment.test

    # --- numbers ---
    # A table of one magnification has no variance between magnifications.
    counts = {name: test[name].nunique() for name in plots_saliency.GROUPS if test[name].nunique() > 1}
    shares = {name: plots_saliency.variance_between(features, test[name]) for name in counts}
    # Smooth maps correlate with either sign, so the size without the sign is given too.
    by_image = sanity.assign(size=sanity["rho"].abs()).groupby(["share", "image"])[["rho", "size"]].mean()
    rows = []
    for share, of_share in by_image.groupby("share"):
        low, median, high = of_share["rho"].quantile([0.25, 0.5, 0.75])
        rows.append({"randomised": plots_saliency.randomized_layers(share), "share": share, "median": median,
                     "low": low, "high": high, "median_size": of_share["size"].median()})  # fmt: skip
    n_checked = sanity["image"].nunique()
    head, everything = (round(row["median"], 2) + 0.0 for row in (rows[0], rows[-1]))  # never "-0.00"
    facts = {
        "run": experiment.name, "data": experiment.meta("data"), "model": experiment.meta("model"),
        "n_images": len(test), "n_checked": n_checked, "n_draws": sanity["draw"].nunique(), "sanity": rows,
        "variance": [
            {"group": name, "share": share, "n_groups": counts[name], "by_chance": (counts[name] - 1) / (len(test) - 1)}
            for name, share in shares.items()
        ],
        "files": {kind: some["file"].tolist() for kinds in examples.values() for kind, some in kinds.items()},
        "finding": f"Randomisation check: median rank correlation with the trained model's heat maps is "
                   f"{head:.2f} with a random head and {everything:.2f} with all layers random "
                   f"({text.count(n_checked, 'image')})",
    }  # fmt: skip

    # --- figures ---
    figures = {}
    for name, kinds in examples.items():
        tiles = {kind: [images[at] for at in some["at"]] for kind, some in kinds.items()}
        title = f"Grad-CAM of the predicted class: most confident images of each {name}"
        figures[f"heat_by_{name.replace('outcome', 'answer')}"] = plots_saliency.sheet(tiles, title)
    # One pixel of the PNG for each pixel of the original, for a closer look.
    pairs = [(kind, at) for kind, some in examples["outcome"].items() for at in some["at"]]
    for n, (kind, at) in enumerate(pairs, 1):
        figures[f"heat_of_{n:02}"] = plots_saliency.overlay(images[at], kind.capitalize())
    figures["forgetting"] = plots_saliency.randomization_curve(by_image.reset_index(), facts["finding"])
    figures["embedding"] = plots_saliency.embedding(features, test, shares)

    content = {
        "name": experiment.name, "banners": text.experiment_banners(experiment),
        "figures": report.save_figures(figures, folder),
        "overlays": [name for name in figures if name.startswith("heat_of_")],
    }  # fmt: skip
    write_json(folder / "explain.json", facts)
    write_text(folder / "index.html", text.render("explain.html", facts | content))
    return facts
