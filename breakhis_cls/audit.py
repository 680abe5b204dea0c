"""`breakhis audit`: what of the test set has the model seen? The leaks of any split, with images or without.

    breakhis audit --split.protocol spanhol                        from the 7,909 official names alone
    breakhis audit --split.protocol mine.csv --data.root DIR       also equal pixels and near duplicates

Audits every fold; writes audit.json, leaks.csv and index.html. Exit code 0: clean, 1: leaks, 2: bad input.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import config
from .data import leakage
from .errors import ANSWER_IS_NO, DONE, ConfigError, exits_cleanly
from .reports import audit_report

N_NAMED = 12  # case numbers in a row of the printed table; the page has them all


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
    try:
        audit_report.write_audit(audit, out)
    except OSError as error:
        raise ConfigError(f"cannot write under {out} ({error}); name another folder with --out") from None
    print_audit(audit, out)
    return ANSWER_IS_NO if len(audit.leaks) else DONE


def print_audit(audit: leakage.Audit, out: Path) -> None:
    """One table on the terminal, a row a fold."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    kinds = [kind for kind in leakage.KINDS if audit.with_images or kind in ("slide", "case")]
    table = Table(title=escape(f"{Path(audit.protocol).stem}: test images of which the model has seen ..."))
    for name in ["fold", "seen", "test", *(audit_report.KIND_WORDS[kind].replace(" ", "\n") for kind in kinds)]:
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
    for sentence in [audit_report.headline(audit), *audit.messages]:
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


if __name__ == "__main__":
    sys.exit(main())
