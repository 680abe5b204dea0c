"""`breakhis <command>`: the same as `python -m breakhis_cls.<command>`."""

from __future__ import annotations

import difflib
import importlib
import sys

from . import __version__
from .errors import BAD_INPUT, DONE

COMMANDS = {
    "download": "fetch BreakHis from Kaggle, or unpack an archive, and verify the tree",
    "audit": "what of a test set has the model seen? the leaks of any split",
    "train": "one run: split, features, head, fine-tuning, predictions, report",
    "sweep": "many runs: folds, seeds, magnifications, any setting; one report; also over a Ray cluster",
    "evaluate": "metrics, figures and report from a run or from any predictions.csv",
    "predict": "probabilities for your own images",
    "explain": "heat maps of what a run's model looked at, and whether to believe them",
    "doctor": "what this machine has and lacks for a run, and what to do about it",
}


def main(argv: list[str] | None = None) -> int:
    """Hand the rest of the command line to the command that is named first."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return DONE
    if argv[0] == "--version":
        print(__version__)
        return DONE
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(COMMANDS)}"
        print(f"error: no command '{argv[0]}'; {hint}", file=sys.stderr)
        return BAD_INPUT
    return importlib.import_module(f"breakhis_cls.{argv[0]}").main(argv[1:])


def _help() -> str:
    rows = "\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items())
    return (
        f"breakhis {__version__}: from the BreakHis archive to a report, without leaks\n\n"
        f"usage: breakhis <command> [options]\n\n{rows}\n\n"
        "`breakhis <command> --help` shows a command's settings and their defaults.\n"
        "A research tool; not a medical device."
    )


if __name__ == "__main__":
    sys.exit(main())
