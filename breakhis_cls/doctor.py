"""What this machine lacks for a run: `python -m breakhis_cls.doctor [--config FILE] [--section.name value ...]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from . import config
from .errors import ANSWER_IS_NO, DONE, exits_cleanly

if TYPE_CHECKING:
    from .machine import Check

COLOURS = {"ok": "green", "note": "yellow", "missing": "bold red"}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Print what is there and what to do about what is not; 1 if `train` with these settings could not run."""
    settings = config.parse_settings(
        config.Config, argv, "breakhis doctor", "What this machine has, and what a run with these settings would lack."
    )
    findings = list(run_checks(settings))
    print_checks(findings)
    missing = [finding.topic for finding in findings if finding.state == "missing"]
    print(f"train lacks {', '.join(missing)}; see above" if missing else "train can run with these settings")
    return ANSWER_IS_NO if missing else DONE


def run_checks(settings: config.Config) -> Iterator[Check]:
    """All findings; TensorFlow comes last, since its import takes seconds and may fail. Reaches for no network."""
    from . import machine, needs

    yield from machine.versions()
    yield machine.memory(settings.tune)
    yield from needs.check_run(settings)
    yield machine.credentials()
    yield from machine.devices(settings.run)


def print_checks(findings: list[Check]) -> None:
    """A table on standard output: what to do stands below what was found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "state", "found, and what to do", show_lines=False)
    for topic, state, found, advice in findings:
        cell = Text(found, overflow="fold")
        if advice:
            cell.append(f"\n-> {advice}", style="bold" if state == "missing" else "")
        table.add_row(topic, Text(state, style=COLOURS[state]), cell)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
