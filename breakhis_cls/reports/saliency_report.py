"""The page of `breakhis explain`: Grad-CAM heat maps of some test images of a run, and its features."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True)
class Examples:
    """Test images to explain, by outcome and by subtype: rows of `add_predictions`."""

    outcomes: dict[str, pd.DataFrame]
    subtypes: dict[str, pd.DataFrame]

    @property
    def at(self) -> list[int]:
        """Places of all of them in the test, each once, in order."""
        return sorted({int(at) for rows in (*self.outcomes.values(), *self.subtypes.values()) for at in rows["at"]})


def select_examples(test: pd.DataFrame, n: int) -> Examples:
    """The n most confident test images of each outcome and of each subtype; what does not occur is left out.

    Outcomes are true and false positives and negatives (malignant is positive), or correct and wrong subtypes.
    """
    rows = add_predictions(test)
    correct = rows["true_label"] == rows["predicted_label"]
    masks = {"correctly classified": correct, "misclassified": ~correct}
    if predictions.is_binary(rows):
        positive = rows["predicted_label"] == "malignant"
        masks = {
            "true positive": correct & positive, "false positive": ~correct & positive,
            "false negative": ~correct & ~positive, "true negative": correct & ~positive,
        }  # fmt: skip
    by_subtype = {code: rows["subtype"] == code for code in names.SUBTYPES}
    outcomes, subtypes = (
        {kind: _most_confident(rows[mask], n) for kind, mask in kinds.items() if mask.any()}
        for kinds in (masks, by_subtype)
    )
    return Examples(outcomes, subtypes)


def _most_confident(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n rows of the highest p, one of each slide first."""
    rows = rows.sort_values(["p", "file"], ascending=[False, True])
    return rows.iloc[np.argsort(rows.groupby("slide").cumcount(), kind="stable")[:n]]


def spread_over_cases(test: pd.DataFrame, n: int) -> np.ndarray:
    """Places of n test images, one of each case before a second of any."""
    rank = test.groupby("case").cumcount()
    return np.sort(np.lexsort((test["file"], rank))[:n])


def write_saliency_report(
    folder: Path, experiment: Experiment, examples: Examples, images: dict[int, SaliencyImage], sanity: pd.DataFrame,
    features: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Write index.html, explain.json and the figures into folder; returns what is in explain.json.

    images: by place in the test; sanity: of `gradcam.randomization_check`; features: (n, d) of the test.
    """
    test = experiment.test

    # --- numbers ---
    # A table of one magnification has no variance between magnifications.
    shares = {
        name: plots_saliency.variance_between(features, test[name])
        for name in plots_saliency.GROUPS
        if test[name].nunique() > 1
    }
    # Smooth maps correlate with either sign, so the size without the sign is given too.
    by_image = sanity.assign(size=sanity["rho"].abs()).groupby(["share", "image"])[["rho", "size"]].mean()
    rows = []
    for share, of_share in by_image.groupby("share"):
        low, median, high = of_share["rho"].quantile([0.25, 0.5, 0.75])
        rows.append({"randomised": plots_saliency.randomized_layers(share), "share": share, "median": median,
                     "low": low, "high": high, "median_size": of_share["size"].median()})  # fmt: skip
    counts = {name: test[name].nunique() for name in shares}
    n_checked = sanity["image"].nunique()
    head, everything = (round(row["median"], 2) + 0.0 for row in (rows[0], rows[-1]))  # never "-0.00"
    facts = {
        "run": experiment.name, "data": experiment.meta("data"), "model": experiment.meta("model"),
        "n_images": len(test), "n_checked": n_checked, "n_draws": sanity["draw"].nunique(), "sanity": rows,
        "variance": [
            {"group": name, "share": share, "n_groups": counts[name], "by_chance": (counts[name] - 1) / (len(test) - 1)}
            for name, share in shares.items()
        ],
        "files": {kind: some["file"].tolist() for kind, some in (examples.outcomes | examples.subtypes).items()},
        "finding": f"Randomisation check: median rank correlation with the trained model's heat maps is "
                   f"{head:.2f} with a random head and {everything:.2f} with all layers random "
                   f"({text.count(n_checked, 'image')})",
    }  # fmt: skip

    # --- figures ---
    figures = {}
    for name, kinds in (("answer", examples.outcomes), ("subtype", examples.subtypes)):
        tiles = {kind: [images[at] for at in some["at"]] for kind, some in kinds.items()}
        title = f"Grad-CAM of the predicted class: most confident images of each {name.replace('answer', 'outcome')}"
        figures[f"heat_by_{name}"] = plots_saliency.sheet(tiles, title)
    # One pixel of the PNG for each pixel of the original, for a closer look.
    pairs = [(kind, at) for kind, some in examples.outcomes.items() for at in some["at"]]
    for n, (kind, at) in enumerate(pairs, 1):
        figures[f"heat_of_{n:02}"] = plots_saliency.overlay(images[at], kind.capitalize())
    figures["forgetting"] = plots_saliency.randomization_curve(by_image.reset_index(), facts["finding"])
    figures["embedding"] = plots_saliency.embedding(features, test, shares)

    content = {
        "name": experiment.name, "banners": text.banners(experiment.meta("protocol"), experiment.meta("data")),
        "figures": report.save_figures(figures, folder),
        "overlays": [name for name in figures if name.startswith("heat_of_")],
    }  # fmt: skip
    write_json(folder / "explain.json", facts)
    write_text(folder / "index.html", text.render("explain.html", facts | content))
    return facts
