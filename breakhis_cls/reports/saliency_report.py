"""The page of `breakhis explain`: from a run's table, the heat of some of its images and its features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import __version__, names
from ..evaluation import predictions
from ..evaluation.experiments import Experiment
from ..files import write_json, write_text
from . import embedding, plots_saliency, report, text
from .plots_saliency import SaliencyImage


@dataclass(frozen=True)
class Shown:
    """Which test images are looked at, by kind of answer and by subtype: rows with `at`, their place in the test."""

    answers: dict[str, pd.DataFrame]
    subtypes: dict[str, pd.DataFrame]

    @staticmethod
    def of(test: pd.DataFrame, n: int) -> Shown:
        """The surest n of each."""
        rows = add_predictions(test)
        of_subtype = {code: most_confident(rows[rows["subtype"] == code], n) for code in names.SUBTYPES}
        return Shown(kinds_of_answers(rows, n), {code: some for code, some in of_subtype.items() if len(some)})

    @property
    def at(self) -> list[int]:
        """Places of all of them in the test, each once, in order."""
        every = [*self.answers.values(), *self.subtypes.values()]
        return sorted({int(at) for rows in every for at in rows["at"]})


def add_predictions(test: pd.DataFrame) -> pd.DataFrame:
    """The table with at (0 to n - 1), true and named (classes), class_index of the one named, and its probability p."""
    classes = np.array(predictions.class_names(test))
    named = predictions.predicted_labels(test)
    p = predictions.probabilities(test)[np.arange(len(test)), named]
    true = classes[predictions.true_labels(test)]
    return test.assign(at=np.arange(len(test)), true=true, named=classes[named], class_index=named, p=p)


def kinds_of_answers(rows: pd.DataFrame, n: int) -> dict[str, pd.DataFrame]:
    """The surest n of true and false positives and negatives (malignant is positive), or of right and wrong subtypes;
    a kind that does not occur is left out."""
    right = rows["true"] == rows["named"]
    if predictions.is_binary(rows):
        positive = rows["named"] == "malignant"
        kinds = {
            "true positive": right & positive, "false positive": ~right & positive,
            "false negative": ~right & ~positive, "true negative": right & ~positive,
        }  # fmt: skip
    else:
        kinds = {"right": right, "wrong": ~right}
    return {kind: most_confident(rows[mask], n) for kind, mask in kinds.items() if mask.any()}


def most_confident(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """The n rows of the highest p, one of each slide first."""
    rows = rows.sort_values(["p", "file"], ascending=[False, True])
    again = rows.groupby("slide").cumcount()
    return rows.iloc[np.argsort(again, kind="stable")[:n]]


def spread_over_cases(test: pd.DataFrame, n: int) -> np.ndarray:
    """Places of n test images that take turns among the cases."""
    turn = test.groupby("case").cumcount()
    return np.sort(np.lexsort((test["file"], turn))[:n])


def caption(row: pd.Series) -> str:
    """Slide, magnification, truth and answer."""
    where = f"{row['slide'].removeprefix('SOB_')}, {row['magnification']}X"
    return f"{where}\n{row['true']}, named {row['named']} ({row['p']:.2f})"


def write_saliency_report(
    folder: Path, experiment: Experiment, shown: Shown, seen: dict[int, SaliencyImage], sanity: pd.DataFrame,
    features: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """Write index.html, explain.json and the figures into folder; returns what is in explain.json.

    seen: by place in the test; sanity: of `saliency.sanity`; features: (n, d) of the test.
    """
    test = experiment.test
    scaled = embedding.standardised(features)
    shares = {name: embedding.between(scaled, test[name]) for name in embedding.GROUPS if test[name].nunique() > 1}
    of_images = sanity.assign(size=sanity["rho"].abs()).groupby(["share", "image"])[["rho", "size"]].mean()
    facts = {
        "run": experiment.name, "data": experiment.meta("data"), "model": experiment.meta("model"),
        "n_images": len(test), "n_checked": sanity["image"].nunique(), "n_draws": sanity["draw"].nunique(),
        "sanity": _medians(of_images), "variance": _shares(shares, test),
        "files": {kind: rows["file"].tolist() for kind, rows in (shown.answers | shown.subtypes).items()},
    }  # fmt: skip
    facts["finding"] = _finding(facts["sanity"], facts["n_checked"])
    made = _sheets(shown, seen) | _overlays(shown, seen)
    made["forgetting"] = plots_saliency.randomization_curve(of_images.reset_index(), facts["finding"])
    made["embedding"] = embedding.figure(embedding.components(scaled)[0], test, shares)
    content = {
        "name": experiment.name, "banners": text.banners(experiment), "version": __version__,
        "figures": report.save_figures(made, folder),
        "overlays": [name for name in made if name.startswith("heat_of_")],
    }  # fmt: skip
    write_json(folder / "explain.json", facts)
    write_text(folder / "index.html", report.render("explain.html", facts | content))
    return facts


def _medians(of_images: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for share, found in of_images.groupby("share"):
        low, median, high = found["rho"].quantile([0.25, 0.5, 0.75])
        size = found["size"].median()
        rows.append({"randomised": plots_saliency.top(share), "share": share, "median": median, "low": low,
                     "high": high, "median_size": size})  # fmt: skip
    return rows


def _shares(shares: dict[str, float], test: pd.DataFrame) -> list[dict[str, Any]]:
    counts = {name: test[name].nunique() for name in shares}
    return [
        {"group": name, "share": share, "n_groups": counts[name], "by_chance": (counts[name] - 1) / (len(test) - 1)}
        for name, share in shares.items()
    ]


def _finding(sanity: list[dict[str, Any]], n_images: int) -> str:
    return (
        f"Rank correlation with the trained model's heat, median over {text.count(n_images, 'image')}: "
        f"{sanity[0]['median']:.2f} when the head is randomised, {sanity[-1]['median']:.2f} when everything is"
    )


def _sheets(shown: Shown, seen: dict[int, SaliencyImage]) -> dict[str, Figure]:
    made = {}
    for what, rows in (("answer", shown.answers), ("subtype", shown.subtypes)):
        fields = {kind: [seen[at] for at in some["at"]] for kind, some in rows.items()}
        title = f"What spoke for the class that was named, in the surest images of each kind of {what}"
        made[f"heat_by_{what}"] = plots_saliency.sheet(fields, title.replace("kind of subtype", "subtype"))
    return made


def _overlays(shown: Shown, seen: dict[int, SaliencyImage]) -> dict[str, Figure]:
    pairs = [(kind, at) for kind, rows in shown.answers.items() for at in rows["at"]]
    return {
        f"heat_of_{n:02}": plots_saliency.overlay(seen[at], kind.capitalize()) for n, (kind, at) in enumerate(pairs, 1)
    }
