"""What can go wrong, in one sentence each: what was found, what was expected, what to do."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable

DONE, ANSWER_IS_NO, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


class BreakHisError(Exception):
    """Base of all errors that a user can mend. Commands print it without a traceback and exit with 2."""


class ConfigError(BreakHisError):
    """A setting is unknown, wrong, or contradicts another."""


class DataError(BreakHisError):
    """Images, archives or tables are not what they should be."""


class CredentialsError(BreakHisError):
    """Kaggle does not know who is asking."""


class DownloadError(BreakHisError):
    """The archive could not be fetched whole."""


class ModelError(BreakHisError):
    """Weights or a model do not fit the settings, or training went astray."""


class RunError(BreakHisError):
    """A run folder is busy, foreign or unfinished."""


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Give a command's main the package's exit codes: 0 done, 1 the answer is no, 2 bad input, 130 interrupted."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except BreakHisError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted; the same command goes on where it was", file=sys.stderr)
            return INTERRUPTED

    return wrapped


def first_few(items: list[str], n: int = 5) -> str:
    """The first n of a long list for an error message, one a line, and how many were left out."""
    shown = "".join(f"\n  {item}" for item in items[:n])
    return shown + (f"\n  ... and {len(items) - n:,} more" if len(items) > n else "")
