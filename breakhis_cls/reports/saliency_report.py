"""Grad-CAM heat maps of some test images of a run and their check: figures, and the page of `breakhis explain`."""

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..evaluation import predictions
from ..evaluation.error_analysis import add_predictions
from ..evaluation.experiments import Experiment
from ..files import write_json, write_text
from . import plots_images, report, text
from .plots import BLACK, BLUE, GREY, PAGE_IN, STYLE, add_title, new_figure

COLOURS = mpl.colormaps["viridis"]  # its lightness rises steadily, so that a grey print shows the same
OPACITY = 0.65  # of the hottest place; a cold one shows the bare tissue
OUTCOMES = (
    "true positive", "false positive", "false negative", "true negative", "correctly classified", "misclassified",
)  # fmt: skip
# Of the median rank correlation with the maps of random weights: the two then share under a quarter of their variance.
# With the sign, since single smooth maps of unrelated networks correlate by 0.3 to 0.5 either way (docs/saliency.md).
PASSES_BELOW = 0.5


class SaliencyImage(NamedTuple):
    """An image and the evidence for a class in it."""

    rgb: np.ndarray  # (height, width, 3) uint8
    heat: np.ndarray  # (height, width) in [0, 1]
    caption: str


def blend_heat(rgb: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 and (h, w) in [0, 1] -> (h, w, 3) uint8: the hotter, the more of the colour scale."""
    share = OPACITY * heat[..., None]
    return ((1 - share) * rgb + share * 255 * COLOURS(heat)[..., :3]).round().astype(np.uint8)


def sheet(rows: dict[str, list[SaliencyImage]], title: str) -> Figure:
    """Two rows of tiles for each kind: the images, and below each its heat map. At three columns and 300 dpi a pixel of
    the PNG is one of the original."""
    n_columns, tiles, captions = max(3, *map(len, rows.values())), [], []
    for kind, images in rows.items():
        gaps = n_columns - len(images)
        tiles += [*(one.rgb for one in images), *[None] * gaps]
        tiles += [*(blend_heat(one.rgb, one.heat) for one in images), *[None] * gaps]
        captions += [f"{kind}\n{images[0].caption}", *(one.caption for one in images[1:]), *[""] * (gaps + n_columns)]
    return plots_images.sheet(tiles, Path(), captions, title, n_columns)


@mpl.rc_context(STYLE)
def randomization_curve(table: pd.DataFrame, title: str) -> Figure:
    """Rank correlation with the trained model's heat map, by how much of the network was randomised. table: columns
    share, image, rho (means over draws). Dots are images, bars medians."""
    figure, axes = new_figure(PAGE_IN, 2.2)
    ax, shares = axes[0, 0], sorted(table["share"].unique())
    for at, share in enumerate(shares):
        rho = table.loc[table["share"] == share, "rho"]
        median = rho.median()
        ax.plot(np.linspace(at - 0.18, at + 0.18, len(rho)), rho, "o", color=BLUE, markersize=3, alpha=0.6, mew=0)
        ax.plot([at - 0.3, at + 0.3], [median, median], color=BLACK, linewidth=2)
        # A white box, since the line at 0 would strike the number through; + 0.0 turns -0.0 into 0.0.
        box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
        ax.annotate(f"{round(median, 2) + 0.0:.2f}", (at + 0.33, median), va="center", bbox=box)
    ax.axhline(0, color=GREY, linewidth=0.6)
    ax.set_xticks(range(len(shares)), map(randomized_layers, shares))
    ax.set(xlabel="Randomised layers, from the top of the network", ylabel="Rank correlation", ylim=(-1.02, 1.02))
    return add_title(figure, title)


def randomized_layers(share: float) -> str:
    """Share of the backbone's layers that were randomised together with the head, in words."""
    return {0.0: "head", 1.0: "all layers"}.get(share, f"head and last {100 * share:.0f} %")


def select_examples(test: pd.DataFrame, n: int) -> dict[str, pd.DataFrame]:
    """The n most confident test images of each outcome that occurs, as rows of `add_predictions`: true and false
    positives and negatives (malignant is positive), or correct and wrong subtypes."""
    rows = add_predictions(test).sort_values(["p", "file"], ascending=[False, True])
    correct = rows["true_label"] == rows["predicted_label"]
    outcome = np.where(correct, "correctly classified", "misclassified")
    if predictions.is_binary(rows):
        positive = np.where(rows["predicted_label"] == "malignant", "positive", "negative")
        outcome = np.where(correct, "true ", "false ") + positive.astype(object)
    # One of each slide before a second of any.
    groups = {kind: rows[outcome == kind] for kind in OUTCOMES}
    return {
        kind: some.iloc[np.argsort(some.groupby("slide").cumcount(), kind="stable")[:n]]
        for kind, some in groups.items()
        if len(some)
    }


def spread_over_cases(test: pd.DataFrame, n: int) -> np.ndarray:
    """Places of n test images, one of each case before a second of any."""
    rank = test.groupby("case").cumcount()
    return np.sort(np.lexsort((test["file"], rank))[:n])


def write_saliency_report(
    folder: Path, experiment: Experiment, examples: dict[str, pd.DataFrame],
    images: dict[int, SaliencyImage], sanity: pd.DataFrame,
) -> dict[str, Any]:  # fmt: skip
    """Write index.html, explain.json and the figures into folder; returns what is in explain.json. images: by place in
    the test; sanity: of `gradcam.randomization_check`."""
    # --- the sanity check: means over draws of each image, then quartiles over images ---
    # Smooth maps correlate with either sign, so the size without the sign is given too.
    by_image = sanity.assign(size=sanity["rho"].abs()).groupby(["share", "image"], as_index=False).mean()
    check = [
        {"randomised": randomized_layers(share), "share": share, "median": rows["rho"].median(),
         "low": rows["rho"].quantile(0.25), "high": rows["rho"].quantile(0.75), "median_size": rows["size"].median()}
        for share, rows in by_image.groupby("share")
    ]  # fmt: skip
    n_checked, largest = sanity["image"].nunique(), max(check, key=lambda row: row["median"])
    passed = bool(largest["median"] < PASSES_BELOW)
    verdict = "passed: the heat maps depend" if passed else "failed: the heat maps hardly depend"
    facts = {
        "run": experiment.name, "data": experiment.meta("data"), "model": experiment.meta("model"),
        "n_images": len(experiment.test), "n_checked": n_checked, "n_draws": sanity["draw"].nunique(), "sanity": check,
        "files": {kind: some["file"].tolist() for kind, some in examples.items()},
        "passed": passed,
        "finding": f"Sanity check {verdict} on what the network learned. With random weights their median rank "
                   f"correlation with the trained model's is {round(largest['median'], 2) + 0.0:.2f} at most "
                   f"({largest['randomised']}, {text.count(n_checked, 'image')}); it has to stay below {PASSES_BELOW}.",
    }  # fmt: skip
    write_json(folder / "explain.json", facts)

    # --- figures and the page ---
    figures = {
        f"heat_{kind.replace(' ', '_')}": sheet(
            {kind: [images[at] for at in some["at"]]}, f"Heat maps of the most confident images, {kind}"
        )
        for kind, some in examples.items()
    }
    figures["randomization"] = randomization_curve(by_image, "Sanity check")
    content = {
        "headline": f"Sanity check {verdict} on what {experiment.name} learned", "examples": examples,
        "banners": text.experiment_banners(experiment), "figures": report.save_figures(figures, folder),
    }  # fmt: skip
    write_text(folder / "index.html", text.render("explain.html", facts | content))
    return facts
