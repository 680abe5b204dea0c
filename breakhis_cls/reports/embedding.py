"""A map of the test set as the network sees it: where labels part, and where cases and magnifications do."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from .plots import BLACK, BLUE, GREEN, GREY, PAGE_IN, PURPLE, STYLE, VERMILION, add_title, new_figure, percent

GROUPS = ("label", "case", "magnification")
MARKERS = (("o", BLUE), ("^", VERMILION), ("s", GREEN), ("D", PURPLE))


def standardised(features: np.ndarray) -> np.ndarray:
    """(n, d) features, each with mean 0 and variance 1; what does not vary is 0."""
    centred = features - features.mean(axis=0)
    deviation = centred.std(axis=0)
    return np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)


def components(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 2) coordinates of standardised features on their first two principal components, and the share of the
    variance of each, (2,); the sign of each is such that its largest loading is positive."""
    left, sizes, axes = np.linalg.svd(features, full_matrices=False)
    sign = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    return left[:, :2] * sizes[:2] * sign, sizes[:2] ** 2 / (sizes**2).sum()


def between(features: np.ndarray, groups: pd.Series) -> float:
    """Share of the variance of centred features (n, d) that lies between groups (n,): eta squared, in [0, 1].

    Of k groups drawn by lot it is (k - 1) / (n - 1) on average: many small groups find some by luck.
    """
    codes, names = pd.factorize(groups)
    counts = np.bincount(codes, minlength=len(names))
    sums = np.zeros((len(names), features.shape[1]))
    np.add.at(sums, codes, features)
    return float((sums**2 / counts[:, None]).sum() / (features**2).sum())


def figure(points: np.ndarray, table: pd.DataFrame, shares: dict[str, float]) -> Figure:
    """Images on the first two principal components (n, 2), a panel for each column of `shares`.

    shares: of the features' variance, that lies between the groups of each of GROUPS that has more than one.
    """
    figure, axes = new_figure(PAGE_IN, 3.0, 1, len(shares))
    with mpl.rc_context(STYLE):
        for ax, column in zip(axes[0], shares, strict=True):
            (_stars if column == "case" else _marks)(ax, points, table[column])
            ax.set(title=f"by {column}", xticks=[], yticks=[])
            ax.set(xlabel="first principal component")
        axes[0, 0].set_ylabel("second principal component")
    told = ", ".join(f"{percent(share)} between {name}s" for name, share in shares.items())
    add_title(figure, f"Of the features' variance lies {told}")
    return figure


def _marks(ax: Axes, points: np.ndarray, groups: pd.Series) -> None:
    values = groups.to_numpy()
    for value, (marker, colour) in zip(sorted(set(values)), MARKERS, strict=False):
        x, y = points[values == value].T
        name = f"{value}X" if groups.name == "magnification" else value
        ax.scatter(x, y, s=12, color=colour, marker=marker, alpha=0.75, linewidths=0, label=name)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, handletextpad=0.1, columnspacing=0.8)


def _stars(ax: Axes, points: np.ndarray, cases: pd.Series) -> None:
    """A line from each image to its case's centre, which carries the number: colours would not do for seventy."""
    values = cases.to_numpy()
    for value in sorted(set(values)):
        mine = points[values == value]
        centre = mine.mean(axis=0)
        ends = np.stack([mine, np.broadcast_to(centre, mine.shape)], axis=1)
        ax.add_collection(LineCollection(list(ends), colors=GREY, linewidths=0.4, alpha=0.7))
        ax.plot(*mine.T, ".", color=BLACK, markersize=2.5)
        box = {"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": GREY, "linewidth": 0.4}
        ax.annotate(value, centre, fontsize=5.5, ha="center", va="center", bbox=box)
