"""`breakhis audit`: what of the test set has the model seen? The leaks of any split, with images or without.

    breakhis audit --split.protocol spanhol                        from the 7,909 official names alone
    breakhis audit --split.protocol mine.csv --data.root DIR       also equal pixels and near duplicates

Audits every fold; writes audit.json, leaks.csv and index.html. Exit code 0: clean, 1: leaks, 2: bad input.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from . import config, files
from .data import index, leakage, protocols, splits
from .errors import ANSWER_IS_NO, DONE, ConfigError, exits_cleanly

TEMPLATES = Path(__file__).parent / "reports" / "templates"
N_NAMED = 12  # case numbers in a row of the printed table; the page has them all
KIND_WORDS = {
    "slide": "slides", "case": "case numbers", "pixels": "equal pixels", "near_duplicate": "near duplicates",
}  # fmt: skip


class Settings(config.Section):
    """Of the audit command."""

    data: config.Data = config.Data(root="")
    """Without data.root the official names are audited, and no image is opened."""
    split: config.Split = config.Split()
    """The split to audit, in all its folds."""
    out: Path | None = None
    """Folder to write to; reports/audit-<protocol> if not given."""

    @property
    def with_images(self) -> bool:
        """Whether there are images to look at."""
        return self.data.root != ""

    @property
    def name(self) -> str:
        """The protocol, short enough for a folder and a headline."""
        return Path(self.split.protocol).stem


@dataclass(frozen=True)
class Audit:
    """What was found: the split of all folds, its leaks, and what else a reader should know."""

    settings: Settings
    split: pd.DataFrame
    leaks: pd.DataFrame
    told: list[str]
    folds: list[dict[str, Any]]
    disagreements: pd.DataFrame = field(default_factory=pd.DataFrame)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Audit, write, print; 1 if anything leaks."""
    settings = config.parse_settings(Settings, argv, "breakhis audit", __doc__ or "")
    audit = run_audit(settings)
    out = settings.out or config.Run().reports / f"audit-{settings.name}"
    write_audit(audit, out)
    print_audit(audit, out)
    return ANSWER_IS_NO if len(audit.leaks) else DONE


def run_audit(settings: Settings) -> Audit:
    """Every fold of the protocol, over the images under data.root, or over the 7,909 official names."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        images = _images(settings)
        split = _all_folds(images, settings.split)
    told = [str(warning.message) for warning in caught] + leakage.validation_warnings(split)
    fingerprints = None
    if settings.with_images:
        images = images.loc[images["file"].isin(split["file"])]
        fingerprints = leakage.compute_fingerprints(images, index.find_root(settings.data), settings.data.cache)
        told += _told_of_equal_pixels(images)
    found = leakage.find_leaks(split, fingerprints)
    disagreements, told_of_kaggle = _kaggle(settings)
    folds = leakage.summarize_folds(split, found, settings.with_images)
    return Audit(settings, split, found, list(dict.fromkeys(told + told_of_kaggle)), folds, disagreements)


def write_audit(audit: Audit, out: Path) -> None:
    """audit.json, leaks.csv, index.html, and kaggle_disagreements.csv where there are any, under `out`."""
    try:
        files.write_json(out / "audit.json", _json(audit))
        files.write_text(out / "leaks.csv", audit.leaks.to_csv(index=False, lineterminator="\n"))
        files.write_text(out / "index.html", page(audit))
        if len(audit.disagreements):
            content = audit.disagreements.to_csv(index=False, lineterminator="\n")
            files.write_text(out / "kaggle_disagreements.csv", content)
    except OSError as error:
        raise ConfigError(f"cannot write under {out} ({error}); name another folder with --out") from None


def page(audit: Audit) -> str:
    """One HTML file that needs nothing else: the folds, and which cases are shared in which."""
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    return environment.get_template("audit.html").render(
        **_json(audit),
        name=audit.settings.name,
        headline=headline(audit),
        kinds=KIND_WORDS,
        cases=shared_cases(audit),
        bits=(leakage.NEAR_BITS, leakage.N_BITS),
    )


def headline(audit: Audit) -> str:
    """The finding in one sentence."""
    touched = [entry for entry in audit.folds if any(found["keys"] for found in entry["leaks"].values())]
    if not touched:
        pixels = ", equal pixels or near duplicate" if audit.settings.with_images else ""
        return f"Clean: no slide or case number{pixels} on both sides in {_any_of(audit)}."
    shares = [entry["leaks"]["case"]["test_share"] or 0.0 for entry in audit.folds]
    ends = [_percent(share) for share in sorted({min(shares), max(shares)})]
    return (
        f"Leaks in {len(touched)} of {_folds(audit)}: {' to '.join(ends)} of the test images "
        "are of case numbers that the model has seen."
    )


def shared_cases(audit: Audit) -> list[dict[str, Any]]:
    """The heat map: a row a case number shared in any fold, with its touched test images in each fold."""
    rows = audit.leaks.loc[audit.leaks["kind"] == "case"]
    n_test = audit.split.loc[audit.split["part"] == "test"].groupby("fold").size()
    label = audit.split.drop_duplicates("case").set_index("case")["label"]
    touched = rows.groupby(["key", "fold"]).size()
    table = []
    for case in sorted(set(rows["key"]), key=lambda case: (-touched[case].sum(), case)):
        counts = [int(touched.get((case, entry["fold"]), 0)) for entry in audit.folds]
        cells = [{"n": n, "share": n / max(n_test.get(fold, 0), 1)} for fold, n in enumerate(counts)]
        table.append({"case": case, "label": label[case], "cells": cells})
    return table


def print_audit(audit: Audit, out: Path) -> None:
    """One table on the terminal, a row a fold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    kinds = [kind for kind in leakage.KINDS if audit.settings.with_images or kind in ("slide", "case")]
    table = Table(title=escape(f"{audit.settings.name}: test images of which the model has seen ..."))
    for name in ["fold", "seen", "test", *(KIND_WORDS[kind].replace(" ", "\n") for kind in kinds)]:
        table.add_column(name, justify="right", no_wrap=True)
    if not audit.settings.with_images:  # room for it in 80 columns
        table.add_column("case numbers\non both sides")
    for entry in audit.folds:
        counts = [f"{entry[key]:,}" for key in ("fold", "n_train", "n_test")]
        cells = [_summary(entry["leaks"][kind]) for kind in kinds]
        cells += [] if audit.settings.with_images else [_named(entry["leaks"]["case"]["keys"])]
        table.add_row(*counts, *cells)
    console = Console()
    console.print(table)
    for sentence in [headline(audit), *audit.told]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{out / 'index.html'} shows it", markup=False, highlight=False, soft_wrap=True)


def _images(settings: Settings) -> pd.DataFrame:
    if settings.with_images:
        return index.load_images(settings.data)
    official = protocols.official_images()
    return official.loc[official["magnification"].isin(settings.data.magnifications)]


def _all_folds(images: pd.DataFrame, split: config.Split) -> pd.DataFrame:
    split = split.model_copy(update={"allow_leaks": True})  # to look at a leak is always allowed
    folds = [split.model_copy(update={"fold": fold}) for fold in range(splits.count_folds(split))]
    return pd.concat(
        [splits.assign_test(splits.select_images(images, fold), fold) for fold in folds], ignore_index=True
    )


def _told_of_equal_pixels(images: pd.DataFrame) -> list[str]:
    groups = leakage.find_equal_pixels(images)
    if not groups:
        return []
    one, other = (file.rpartition("/")[2] for file in groups[0][:2])
    found = f"{sum(map(len, groups)):,} files hold {len(groups):,} images: equal pixels under several names"
    return [f"{found}, such as {one} and {other}"]


def _kaggle(settings: Settings) -> tuple[pd.DataFrame, list[str]]:
    """Kaggle's Folds.csv, if it is what is audited or lies beside the images, against the published folds."""
    path = Path(settings.split.protocol)
    if settings.split.protocol == "spanhol" and settings.with_images:
        path = next(iter(sorted(Path(settings.data.root).rglob("Folds.csv"))), path)
    if not path.is_file() or not protocols.is_kaggles(path):
        return pd.DataFrame(), []
    differ = protocols.kaggle_disagreements(path)
    if differ.empty:
        return differ, [f"{path} agrees with the published folds in every row"]
    where = f"{len(differ):,} rows, listed in kaggle_disagreements.csv"
    return differ, [f"{path} differs from the published folds in {where}"]


def _json(audit: Audit) -> dict[str, Any]:
    return {
        "protocol": audit.settings.split.protocol,
        "with_images": audit.settings.with_images,
        "n_images": int(audit.split["file"].nunique()),
        "told": audit.told,
        "folds": audit.folds,
    }


def _summary(found: dict[str, Any]) -> str:
    return f"{found['test_images']:,} ({_percent(found['test_share'])})" if found["keys"] else "0"


def _named(cases: list[str]) -> str:
    if not cases:
        return "none"
    return f"{len(cases)}: {' '.join(cases[:N_NAMED])}{' ...' if len(cases) > N_NAMED else ''}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _any_of(audit: Audit) -> str:
    return "the one fold" if len(audit.folds) == 1 else f"any of {_folds(audit)}"


def _folds(audit: Audit) -> str:
    return "1 fold" if len(audit.folds) == 1 else f"{len(audit.folds)} folds"


if __name__ == "__main__":
    sys.exit(main())
