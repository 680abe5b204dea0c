"""What can go wrong, in one sentence each: what was found, what was expected, what to do."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

DONE, ANSWER_IS_NO, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
_STORAGE = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "name a place that can be written",
}


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
            with _Terminable():
                return main(*args, **kwargs)
        except BreakHisError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except OSError as error:
            if error.errno not in _STORAGE:
                raise
            print(f"error: {_storage_sentence(error)}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print("interrupted; what was finished is kept, and the same command goes on from there", file=sys.stderr)
            return INTERRUPTED

    return wrapped


class _Terminable:
    """SIGTERM, which clusters send before they kill, is taken as Ctrl-C is."""

    def __enter__(self) -> None:
        self.before: Any = None
        if threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGTERM, _interrupt)

    def __exit__(self, *_: object) -> None:
        if self.before is not None:
            signal.signal(signal.SIGTERM, self.before)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _storage_sentence(error: OSError) -> str:
    number = error.errno or 0
    where = f"{error.filename}: " if error.filename else ""
    kept = "What was finished is kept, and the same command goes on from there"
    return f"{where}{os.strerror(number)}; {_STORAGE[number]}. {kept}"


def list_first(items: list[str], n: int = 5) -> str:
    """The first n of a long list for an error message, one a line, and how many were left out."""
    shown = "".join(f"\n  {item}" for item in items[:n])
    return shown + (f"\n  ... and {len(items) - n:,} more" if len(items) > n else "")
