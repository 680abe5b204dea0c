"""`breakhis audit`: what of the test set has the model seen? The leaks of any split, with images or without.

    breakhis audit --split.protocol spanhol                        from the 7,909 official names alone
    breakhis audit --split.protocol mine.csv --data.root DIR       also equal pixels and near duplicates

Audits every fold; writes audit.json, leaks.csv and index.html. Exit code 0: clean, 1: leaks, 2: bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import config, files
from .data import leakage
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


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Audit, write, print; 1 if anything leaks."""
    settings = config.parse_settings(Settings, argv, "breakhis audit", __doc__ or "")
    audit = leakage.audit_split(settings.data, settings.split)
    out = settings.out or config.Run().reports / f"audit-{Path(audit.protocol).stem}"
    write_audit(audit, out)
    print_audit(audit, out)
    return ANSWER_IS_NO if len(audit.leaks) else DONE


def write_audit(audit: leakage.Audit, out: Path) -> None:
    """audit.json, leaks.csv and index.html under `out`."""
    try:
        files.write_json(out / "audit.json", audit.to_json())
        files.write_text(out / "leaks.csv", audit.leaks.to_csv(index=False, lineterminator="\n"))
        files.write_text(out / "index.html", page(audit))
    except OSError as error:
        raise ConfigError(f"cannot write under {out} ({error}); name another folder with --out") from None


def page(audit: leakage.Audit) -> str:
    """One HTML file that needs nothing else: the folds, and which cases are shared in which."""
    import jinja2

    loader = jinja2.FileSystemLoader(TEMPLATES)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    return environment.get_template("audit.html").render(
        **audit.to_json(),
        name=Path(audit.protocol).stem,
        headline=headline(audit),
        kinds=KIND_WORDS,
        cases=shared_cases(audit),
        bits=(leakage.NEAR_BITS, leakage.N_BITS),
    )


def headline(audit: leakage.Audit) -> str:
    """The finding in one sentence."""
    touched = [entry for entry in audit.folds if any(found["keys"] for found in entry["leaks"].values())]
    if not touched:
        pixels = ", equal pixels or near duplicate" if audit.with_images else ""
        return f"Clean: no slide or case number{pixels} on both sides in {_any_of(audit)}."
    shares = [entry["leaks"]["case"]["test_share"] or 0.0 for entry in audit.folds]
    ends = [_percent(share) for share in sorted({min(shares), max(shares)})]
    return (
        f"Leaks in {len(touched)} of {_folds(audit)}: {' to '.join(ends)} of the test images "
        "are of case numbers that the model has seen."
    )


def shared_cases(audit: leakage.Audit) -> list[dict[str, Any]]:
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


def print_audit(audit: leakage.Audit, out: Path) -> None:
    """One table on the terminal, a row a fold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    kinds = [kind for kind in leakage.KINDS if audit.with_images or kind in ("slide", "case")]
    table = Table(title=escape(f"{Path(audit.protocol).stem}: test images of which the model has seen ..."))
    for name in ["fold", "seen", "test", *(KIND_WORDS[kind].replace(" ", "\n") for kind in kinds)]:
        table.add_column(name, justify="right", no_wrap=True)
    if not audit.with_images:  # room for it in 80 columns
        table.add_column("case numbers\non both sides")
    for entry in audit.folds:
        counts = [f"{entry[key]:,}" for key in ("fold", "n_train", "n_test")]
        cells = [_summary(entry["leaks"][kind]) for kind in kinds]
        cells += [] if audit.with_images else [_named(entry["leaks"]["case"]["keys"])]
        table.add_row(*counts, *cells)
    console = Console()
    console.print(table)
    for sentence in [headline(audit), *audit.messages]:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{out / 'index.html'} shows it", markup=False, highlight=False, soft_wrap=True)


def _summary(found: dict[str, Any]) -> str:
    return f"{found['test_images']:,} ({_percent(found['test_share'])})" if found["keys"] else "0"


def _named(cases: list[str]) -> str:
    if not cases:
        return "none"
    return f"{len(cases)}: {' '.join(cases[:N_NAMED])}{' ...' if len(cases) > N_NAMED else ''}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _any_of(audit: leakage.Audit) -> str:
    return "the one fold" if len(audit.folds) == 1 else f"any of {_folds(audit)}"


def _folds(audit: leakage.Audit) -> str:
    return "1 fold" if len(audit.folds) == 1 else f"{len(audit.folds)} folds"


if __name__ == "__main__":
    sys.exit(main())
