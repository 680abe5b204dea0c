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

# Of the median rank correlation with the maps of random weights: the two then share under a quarter of their variance.
# With the sign, since single smooth maps of unrelated networks correlate by 0.3 to 0.5 either way (docs/saliency.md).
PASSES_BELOW = 0.5


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
    largest = max(rows, key=lambda row: row["median"])
    passed = bool(largest["median"] < PASSES_BELOW)
    verdict = "passed: the heat maps depend" if passed else "failed: the heat maps hardly depend"
    facts = {
        "run": experiment.name, "data": experiment.meta("data"), "model": experiment.meta("model"),
        "n_images": len(test), "n_checked": n_checked, "n_draws": sanity["draw"].nunique(), "sanity": rows,
        "variance": [
            {"group": name, "share": share, "n_groups": counts[name], "by_chance": (counts[name] - 1) / (len(test) - 1)}
            for name, share in shares.items()
        ],
        "files": {kind: some["file"].tolist() for kinds in examples.values() for kind, some in kinds.items()},
        "passed": passed,
        "finding": f"Sanity check {verdict} on what the network learned. With random weights their median rank "
                   f"correlation with the trained model's is {round(largest['median'], 2) + 0.0:.2f} at most "
                   f"({largest['randomised']}, {text.count(n_checked, 'image')}); it has to stay below {PASSES_BELOW}.",
    }  # fmt: skip

    # --- figures ---
    figures = {}
    for kinds in examples.values():
        for kind, some in kinds.items():
            title = f"Heat maps of the most confident images, {text.subtype(kind)}"
            tiles = {kind: [images[at] for at in some["at"]]}
            figures[f"heat_{'_'.join(kind.split())}"] = plots_saliency.sheet(tiles, title)
    heat = [[f"heat_{'_'.join(kind.split())}" for kind in kinds] for kinds in examples.values()]
    figures["randomization"] = plots_saliency.randomization_curve(by_image.reset_index(), "Sanity check")
    figures["embedding"] = plots_saliency.embedding(features, test, shares)
    # For a paper: the check's table.
    table = [
        [row["randomised"], *(text.number(row[key]) for key in ("median", "low", "high", "median_size"))]
        for row in rows
    ]
    columns = pd.Index(["Randomised", "Median rank correlation", "Lower quartile", "Upper quartile", "Median size"])
    banners = text.experiment_banners(experiment)
    caption = " ".join([f"{experiment.name}.", facts["finding"], *(sentence for _, sentence in banners)])
    text.write_tables(folder, "sanity_check", pd.DataFrame(table, columns=columns), caption)

    content = {
        "headline": f"Sanity check {verdict} on what {experiment.name} learned", "banners": banners,
        "figures": report.save_figures(figures, folder), "columns": columns, "table": table,
        "by_outcome": heat[0], "by_subtype": heat[1],
    }  # fmt: skip
    write_json(folder / "explain.json", facts)
    write_text(folder / "index.html", text.render("explain.html", facts | content))
    return facts
