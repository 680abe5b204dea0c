"""How likely is a clean split? All named protocols and 20,000 random splits by folder, of the 7,909 official names."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .. import names
from ..data import leakage, protocols
from ..files import write_csv
from . import plots, text

N_DRAWS, TEST_SHARE = 20_000, 0.15  # splits 70/15/15 by folder, as papers make them
SHARES = {"test_share": "Test images of a seen case number (%)", "benign_share": "of the benign ones (%)"}
HEADER = ["protocol", "folds", "case numbers on both sides", "of the test images", "of the benign ones"]


def write_gallery(out: Path) -> str:
    """Write gallery.csv, .md, .tex and the figure `gallery`: what the protocols and random splits by folder share.
    Returns the table and a sentence on the random splits."""
    # --- every fold of the named protocols: case numbers that test shares with train and validation together ---
    folds = []
    for protocol in ("case", "slide", *protocols.PUBLISHED, "image"):
        for fold in leakage.audit_split(protocol).folds:
            found = fold["leaks"]["case"]
            shares = len(found["keys"]), found["test_share"], found["benign_test_share"]
            folds.append((protocol, fold["fold"], fold["n_test"], *shares))
    columns = pd.Index(["protocol", "fold", "n_test", "shared_cases", *SHARES])
    folds, draws = pd.DataFrame(folds, columns=columns), draw_splits()
    write_csv(out / "gallery.csv", folds)

    # --- a row for each protocol, a sentence on the random splits, and the figure ---
    rows = []
    for protocol, inside in folds.groupby("protocol", sort=False):
        row = [protocol, str(len(inside)), ", ".join(map(str, inside["shared_cases"]))]
        for shares in (inside[column] for column in SHARES):
            row.append(
                " to ".join(dict.fromkeys(f"{100 * share:.0f}" for share in (shares.min(), shares.max()))) + " %"
            )
        rows.append(row)
    clean, whole, median = draws["shared_cases"] == 0, draws["benign_share"] == 1, 100 * draws.median()
    caption = (
        f"Of {N_DRAWS:,} random splits by folder (70/15/15, stratified by label) {100 * clean.mean():.1f} % share no "
        f"case number; in the median one {median['test_share']:.0f} % of the test images and "
        f"{median['benign_share']:.0f} % of the benign ones are of case numbers that were seen; in "
        f"{100 * whole.mean():.0f} % every benign test image is."
    )
    plots.save(draw_figure(folds, draws), out, "gallery")
    return text.write_tables(out, "gallery", pd.DataFrame(rows, columns=pd.Index(HEADER)), caption)


def draw_splits() -> pd.DataFrame:
    """shared_cases, test_share and benign_share of random splits: 15 % of the folders of each label tested, 3 and 8."""
    slides, rng = protocols.slides(), np.random.default_rng(0)
    is_benign = (slides["label"] == "benign").to_numpy()
    test = np.zeros((N_DRAWS, len(slides)), dtype=bool)
    for label in (is_benign, ~is_benign):
        test[:, label] = rng.random((N_DRAWS, label.sum())).argsort(axis=1) < int(TEST_SHARE * label.sum())
    of_case = pd.get_dummies(slides["case"]).to_numpy(float)  # (n_slides, n_cases)
    tested = test @ of_case
    shared = (tested > 0) & (tested < of_case.sum(axis=0))
    n_images = slides[[f"n_{value}x" for value in names.MAGNIFICATIONS]].sum(axis=1).to_numpy()
    touched, drawn = test & (shared @ of_case.T > 0), {"shared_cases": shared.sum(axis=1)}
    for name, counted in (("test_share", n_images), ("benign_share", n_images * is_benign)):
        drawn[name] = (touched @ counted) / (test @ counted)
    return pd.DataFrame(drawn)


@mpl.rc_context(plots.STYLE)
def draw_figure(folds: pd.DataFrame, draws: pd.DataFrame) -> Figure:
    """A dot for each fold of each protocol over the distribution of random splits by folder."""
    figure, axes = plots.new_figure(plots.PAGE_IN, 2.9, 1, 2)
    protocol_names = folds["protocol"].unique().tolist()
    for ax, (column, label) in zip(axes[0], SHARES.items(), strict=True):
        counts, edges = np.histogram(100 * draws[column], bins=25, range=(0, 100))
        bottom = len(protocol_names) + 0.4
        ax.bar(edges[:-1], -0.9 * counts / counts.max(), width=4, align="edge", bottom=bottom, color="#b9b9c2")
        ax.vlines(100 * draws[column].median(), bottom - 1, bottom, color=plots.BLACK, linewidth=1.2)
        for at, protocol in enumerate(protocol_names):
            shares = 100 * folds.loc[folds["protocol"] == protocol, column]
            marker, colour = ("s", plots.VERMILION) if shares.any() else ("o", plots.BLUE)
            ax.plot(shares, [at] * len(shares), marker, color=colour)
        ax.set(xlabel=label, xlim=(-4, 104), ylim=(bottom + 0.1, -0.6), yticks=range(len(protocol_names) + 1))
        ax.set_yticklabels([*protocol_names, "random, by folder"] if ax is axes[0, 0] else [])
        ax.grid(axis="x", color="#e4e4e8", linewidth=0.6)
        ax.set_axisbelow(True)
    title = f"What a test set shares with training: a dot for each fold; grey: {len(draws):,} random splits by folder, "
    return plots.add_title(figure, title + "with their median. Dots at 0 are clean.")
