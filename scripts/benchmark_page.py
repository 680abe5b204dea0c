"""The benchmark's JSON for people: a table in the terminal, Markdown, one figure, and the block of docs/performance.md.

python scripts/benchmark_page.py [--json FILE] [--docs docs/performance.md]     writes the figures of that file into it
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import matplotlib as mpl
import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from breakhis_cls import config, names
from breakhis_cls.errors import DONE, DataError, exits_cleanly
from breakhis_cls.files import write_json, write_text
from breakhis_cls.reports import plots

BLOCK = re.compile(r"(<!-- benchmark -->\n).*(<!-- /benchmark -->)", re.DOTALL)
PASSES = 20 * 5  # of each image in the published protocol, by stock Keras: epochs and folds


class Claim(NamedTuple):
    """What is wanted of a ratio, and how its parts read."""

    label: str
    title: str
    limit: float
    made_of: Callable[[dict[str, Any]], str]
    at_least: bool = True

    def met(self, ratio: float) -> bool:
        """Whether the ratio is on the right side of the limit."""
        return ratio >= self.limit if self.at_least else ratio <= self.limit

    @property
    def wanted(self) -> str:
        """`>= 0.9`."""
        return f"{'>=' if self.at_least else '<='} {self.limit:g}"


CLAIMS = {
    "extraction_vs_forward": Claim(
        "extraction\nover bare forward",
        "feature extraction from PNG files, rate over the bare forward pass's", 0.9,
        lambda f: f"{f['images_per_s']:.1f} of {f['bare_images_per_s']:.1f} images/s; decoding, resizing and storing "
        f"take {f['decoding_share']:.1%} of the time ({f['n_images']:,} images)",
    ),
    "protocol_vs_stock_keras": Claim(
        "protocol\nover stock Keras",
        "folds of a head on a frozen backbone, from nothing, faster than stock Keras", 50,
        lambda f: f"{_time(f['cold_s'])} against {_time(f['stock_s_extrapolated'])}, extrapolated from one epoch at "
        f"{f['stock_ms_per_image']:.0f} ms an image; from warm caches {_time(f['warm_s'])} ({f['ratio_warm']:,.0f}x); "
        f"folds: {f['n_folds']}, 30 epochs, {f['n_images']:,} images ({f['data']})",
    ),
    "epoch_vs_stock_keras": Claim(
        "epoch\nover stock Keras",
        "epoch over the pixel store, no model, faster than image_dataset_from_directory", 20,
        lambda f: f"{f['store_images_per_s']:,.0f} against {f['stock_images_per_s']:,.0f} images/s; with flips and "
        f"turns {f['ratio_with_views']:.1f}x, with all augmentations {f['ratio_with_all']:.1f}x "
        f"({f['n_images']:,} PNGs of 700x460)",
    ),
    "index_vs_decode": Claim(
        "index\nover bare decoding",
        "index with hashes of a whole tree, time over that of bare decoding on all cores", 1.3,
        lambda f: f"{_time(f['index_s'])} against {_time(f['decode_s'])} ({f['n_images']:,} PNGs of 700x460); the "
        f"second time {_time(f['again_s'])}",
        at_least=False,
    ),
}  # fmt: skip
STAGES = {"index": ("o", "-"), "store": ("s", "--"), "extraction": ("^", "-."), "epoch": ("D", ":")}  # marker, dash


class Page(config.Section):
    """What goes where."""

    json_file: Annotated[Path, tyro.conf.arg(name="json")] = Path("reports/benchmark/benchmark.json")
    """What scripts/benchmark.py wrote."""
    docs: Path = Path("docs/performance.md")
    """The page whose block between the benchmark's marks is written anew, and its figure beside it."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Fill the page."""
    given = config.parse_settings(Page, argv, "benchmark_page", "")
    fill(given.docs, json.loads(given.json_file.read_text(encoding="utf-8")))
    return DONE


def write(found: dict[str, Any], json_file: Path) -> None:
    """JSON, and beside it Markdown and figure."""
    write_json(json_file, found)
    write_text(json_file.with_suffix(".md"), markdown(found))
    plots.save(drawn(found), json_file.parent, json_file.stem)


def fill(docs: Path, found: dict[str, Any]) -> None:
    """Write the page's block anew, and its figure; DataError where the page has no marks."""
    text = docs.read_text(encoding="utf-8")
    if not BLOCK.search(text):
        raise DataError(f"{docs} holds no '<!-- benchmark -->' and '<!-- /benchmark -->' lines; add them")
    write_text(docs, BLOCK.sub(lambda marks: f"{marks[1]}{markdown(found)}{marks[2]}", text))
    plots.save(drawn(found), docs.parent, docs.stem)


def show(found: dict[str, Any]) -> None:
    """The claims as one table in the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_conditions(found), title_justify="left", show_lines=True)
    for column in ("claim", "ratio", "wanted", "met", "made of"):
        table.add_column(column, overflow="fold")
    for row in _claim_rows(found):
        table.add_row(*row)
    Console().print(table)


def markdown(found: dict[str, Any]) -> str:
    """All figures as Markdown tables, in the order in which one asks for them."""
    rates = found["pipeline"]["core_images_per_s"]
    steps = [(name.replace("_", " "), f"{rate:,.0f}") for name, rate in rates.items()]
    return "\n".join([
        _conditions(found) + "\n",
        _table(("claim", "ratio", "wanted", "met", "made of"), _claim_rows(found)),
        f"What one core brings from the store to a batch (augmentations of spread {found['pipeline']['spread']}):\n",
        _table(("done on the way", "images/s a core"), steps),
        "Milliseconds an image, as the set grows; equal numbers in a row mean time in proportion:\n",
        _table(("stage", "rows at 1x", "1x", "2x", "4x", "8x"), _growth_rows(found["growth"])),
        _memory(found["memory"]),
        f"The whole set of {names.N_IMAGES:,} images at these rates (computed from the above, not run):\n",
        _table(("stage", "once"), _whole_set_rows(found)),
    ])  # fmt: skip


def _claim_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (claim.title, _short(found[key]["ratio"]), claim.wanted, "yes" if claim.met(found[key]["ratio"]) else "NO",
         claim.made_of(found[key]))
        for key, claim in CLAIMS.items()
    ]  # fmt: skip


def _growth_rows(growth: dict[str, dict[Any, float]]) -> list[tuple[str, ...]]:
    """JSON made the numbers of rows text."""
    return [
        (stage, f"{min(map(int, times)):,}", *(f"{1_000 * spent / int(n):.3g}" for n, spent in times.items()))
        for stage, times in growth.items()
    ]


def _memory(memory: dict[str, float]) -> str:
    if not memory:
        return "Anonymous memory was not measured: it needs Linux.\n"
    table, epoch = memory["index_and_store_gb"], memory["epoch_gb"]
    return (
        f"Anonymous memory at most beyond TensorFlow's, for {memory['rows']:,} images: {table:.2f} GB while they are "
        f"indexed and stored (tiny ones), {epoch:.2f} GB in an epoch over a map of their real size. Wanted: 1 GB.\n"
    )


def _whole_set_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Each stage's rate at the largest size that was measured, times the whole set."""
    n = names.N_IMAGES
    growth, extraction = found["growth"], found["extraction_vs_forward"]
    stored = {stage: times[max(times, key=int)] / int(max(times, key=int)) for stage, times in growth.items()}
    one_view_s = n / extraction["images_per_s"]
    stock_s = PASSES * n * found["protocol_vs_stock_keras"]["stock_ms_per_image"] / 1_000
    stock = f"the published protocol by stock Keras: 20 epochs of 5 folds at 4 magnifications, {PASSES * n:,} passes"
    rows = {
        "index with hashes": n * stored["index"],
        "pixel store": n * stored["store"],
        "features of one view, from PNG files: serves all folds, tasks and seeds of a frozen backbone": one_view_s,
        "features of all eight flips and turns": 8 * one_view_s,
        "an epoch over the store, no model": n * stored["epoch"],
        stock: stock_s,
    }
    return [(stage, _time(spent)) for stage, spent in rows.items()]


def _conditions(found: dict[str, Any]) -> str:
    machine, image = found["machine"], found["image"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("python", "tensorflow", "keras", "pillow"))
    return (
        f"{found['date']}, {machine['cores']} cores of {machine['processor']}, {' '.join(machine['devices'])}, load "
        f"{machine['load']} before; {versions}; {image['height_px']}x{image['width_px']} pixels, random weights; "
        f"{found['seconds']} s{' (--quick: rough, and too few images for the second claim)' if found['quick'] else ''}"
    )


def drawn(found: dict[str, Any]) -> Figure:
    """Left the four ratios and their limits, right the seconds of each stage as the set grows; log axes."""
    figure, axes = plots.new_figure(plots.PAGE_IN, 3.0, 1, 2)
    with mpl.rc_context(plots.STYLE):
        _draw_claims(axes[0, 0], found)
        _draw_growth(axes[0, 1], found["growth"])
    n_met = sum(claim.met(found[key]["ratio"]) for key, claim in CLAIMS.items())
    machine = found["machine"]
    run = " in a quick run" if found["quick"] else ""
    where = f"{machine['cores']} cores of {machine['processor']}"
    plots.add_title(figure, f"{n_met} of {len(CLAIMS)} claims hold on {where}{run}")
    return figure


def _draw_claims(ax: Axes, found: dict[str, Any]) -> None:
    left, right = 0.3, 3 * max(found[key]["ratio"] for key in CLAIMS)
    for at, (key, claim) in enumerate(CLAIMS.items()):
        ratio, met = found[key]["ratio"], claim.met(found[key]["ratio"])
        far = right if claim.at_least else left
        ax.fill_betweenx((at - 0.2, at + 0.2), claim.limit, far, color="#e4e4e4", linewidth=0)
        ax.plot([claim.limit] * 2, [at - 0.2, at + 0.2], color=plots.BLACK, linewidth=1.5)
        ax.plot(ratio, at, "o" if met else "X", color=plots.BLUE if met else plots.VERMILION)
        ax.annotate(_short(ratio), (ratio, at), (0, 13), textcoords="offset points", ha="center", fontsize=7)
    ax.set_yticks(range(len(CLAIMS)), [claim.label for claim in CLAIMS.values()])
    ax.set(xscale="log", xlim=(left, right), ylim=(len(CLAIMS) - 0.5, -0.6))
    ax.set_xlabel("ratio (line: the limit; grey: its good side)")


def _draw_growth(ax: Axes, growth: dict[str, dict[Any, float]]) -> None:
    colours = (plots.BLACK, plots.BLUE, plots.VERMILION, plots.GREEN)
    for colour, (stage, times) in zip(colours, growth.items(), strict=False):
        marker, dash = STAGES[stage]
        n, spent = [int(rows) for rows in times], list(times.values())
        ax.plot(n, spent, marker, linestyle=dash, color=colour, markersize=4, label=stage)
        ax.plot(n, [spent[-1] * rows / n[-1] for rows in n], color="#bbbbbb", linewidth=0.8, zorder=0)
    ax.set(xscale="log", yscale="log", xlabel="images (grey: in proportion)", ylabel="seconds")
    ticks = sorted({int(rows) for times in growth.values() for rows in times})
    ax.set_xticks(ticks[:: max(len(ticks) // 4, 1)], labels=[f"{n:,}" for n in ticks[:: max(len(ticks) // 4, 1)]])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.legend()


def _table(heads: tuple[str, ...], rows: list[Any]) -> str:
    ruled = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return "\n".join([*ruled, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _short(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 20 else f"{ratio:.3g}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


if __name__ == "__main__":
    sys.exit(main())
