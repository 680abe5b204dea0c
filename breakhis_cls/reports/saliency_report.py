"""The page of `breakhis explain`: Grad-CAM heat maps of some test images of a run, and their check."""

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
    """`{"outcome": {kind: rows}, "subtype": {code: rows}}`: the n most confident test images of each that occurs. Rows
    are of `add_predictions`. Outcomes are true and false positives and negatives (malignant is positive), or correct
    and wrong subtypes."""
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
    found = {"outcome": {}, "subtype": {}}
    subtypes = {code: rows["subtype"] == code for code in names.SUBTYPES}
    for name, masks in (("outcome", outcomes), ("subtype", subtypes)):
        for kind, mask in masks.items():
            if len(some := rows[mask.loc[rows.index]]):
                found[name][kind] = some.loc[some.groupby("slide").cumcount().sort_values(kind="stable").index[:n]]
    return found


def spread_over_cases(test: pd.DataFrame, n: int) -> np.ndarray:
    """Places of n test images, one of each case before a second of any."""
    rank = test.groupby("case").cumcount()
    return np.sort(np.lexsort((test["file"], rank))[:n])


def write_saliency_report(
    folder: Path, experiment: Experiment, examples: dict[str, dict[str, pd.DataFrame]],
    images: dict[int, SaliencyImage], sanity: pd.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    """Write index.html, explain.json and the figures into folder; returns what is in explain.json. images: by place in
    the test; sanity: of `gradcam.randomization_check`."""
    banners = text.experiment_banners(experiment)

    # --- rank correlations: smooth maps correlate with either sign, so the size without the sign is given too ---
    by_image = sanity.assign(size=sanity["rho"].abs()).groupby(["share", "image"])[["rho", "size"]].mean()
    quartiles = by_image["rho"].groupby("share").quantile([0.25, 0.5, 0.75]).unstack()
    rows = pd.DataFrame({
        "randomised": quartiles.index.map(plots_saliency.randomized_layers), "share": quartiles.index,
        "median": quartiles[0.5], "low": quartiles[0.25], "high": quartiles[0.75],
        "median_size": by_image["size"].groupby("share").median(),
    })  # fmt: skip
    n_checked, largest = sanity["image"].nunique(), rows.loc[rows["median"].idxmax()]
    passed = bool(largest["median"] < PASSES_BELOW)
    verdict = "passed: the heat maps depend" if passed else "failed: the heat maps hardly depend"
    facts = {
        "run": experiment.name, "data": experiment.meta("data"), "model": experiment.meta("model"),
        "n_images": len(experiment.test), "n_checked": n_checked, "n_draws": sanity["draw"].nunique(),
        "sanity": rows.to_dict("records"),
        "files": {kind: some["file"].tolist() for kinds in examples.values() for kind, some in kinds.items()},
        "passed": passed,
        "finding": f"Sanity check {verdict} on what the network learned. With random weights their median rank "
                   f"correlation with the trained model's is {round(largest['median'], 2) + 0.0:.2f} at most "
                   f"({largest['randomised']}, {text.count(n_checked, 'image')}); it has to stay below {PASSES_BELOW}.",
    }  # fmt: skip
    table = rows.drop(columns="share").map(lambda cell: cell if isinstance(cell, str) else text.number(cell))
    table.columns = ["Randomised", "Median rank correlation", "Lower quartile", "Upper quartile", "Median size"]
    caption = " ".join([f"{experiment.name}.", facts["finding"], *(sentence for _, sentence in banners)])
    text.write_tables(folder, "sanity_check", table, caption)

    # --- figures: a sheet for each outcome and for each subtype ---
    figures, sheets = {}, []
    for kinds in examples.values():
        sheets.append([f"heat_{'_'.join(kind.split())}" for kind in kinds])
        for name, (kind, some) in zip(sheets[-1], kinds.items(), strict=True):
            title = f"Heat maps of the most confident images, {text.subtype(kind)}"
            figures[name] = plots_saliency.sheet({kind: [images[at] for at in some["at"]]}, title)
    figures["randomization"] = plots_saliency.randomization_curve(by_image.reset_index(), "Sanity check")

    content = {
        "headline": f"Sanity check {verdict} on what {experiment.name} learned", "banners": banners,
        "figures": report.save_figures(figures, folder), "columns": list(table), "table": table.to_numpy().tolist(),
        "by_outcome": sheets[0], "by_subtype": sheets[1],
    }  # fmt: skip
    write_json(folder / "explain.json", facts)
    write_text(folder / "index.html", text.render("explain.html", facts | content))
    return facts
