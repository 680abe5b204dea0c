"""Errors that a user can fix, and the exit codes of commands. A message says what was found, expected, and to do."""

from __future__ import annotations

import errno
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable

# 1 is an answer and not an error: leaks were found, a tree is not complete, the machine lacks something.
DONE, ANSWER_IS_NO, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # 130 = 128 + SIGINT, as shells report Ctrl-C
RESUMES = "finished work is kept, and the same command continues from there"
STORAGE_ADVICE = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there",  # a quota: usual for home folders on clusters
    errno.EFBIG: "raise the file size limit (ulimit -f)",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
}


class BreakHisError(Exception):
    """Base of all errors that a user can fix. Commands print it without a traceback and exit with 2."""


class ConfigError(BreakHisError):
    """A setting is unknown, invalid, or contradicts another."""


class DataError(BreakHisError):
    """Images, archives or tables are missing or invalid."""


class DownloadError(BreakHisError):
    """Kaggle's credentials are missing or not accepted, or the archive could not be downloaded completely."""


class ModelError(BreakHisError):
    """Weights or a model do not fit the settings, or training diverged."""


class RunError(BreakHisError):
    """A run folder is in use, changed or unfinished."""


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Give a command's main the package's exit codes: 0 done, 1 the answer is no, 2 bad input, 130 interrupted."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        # Clusters send SIGTERM some time before SIGKILL: treat it as Ctrl-C. Only the main thread may set handlers.
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
        try:
            return main(*args, **kwargs)
        except BreakHisError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except OSError as error:
            if error.errno not in STORAGE_ADVICE:
                raise  # a bug, or nothing that a sentence would help with: show the traceback
            where = f"{error.filename}: " if error.filename else ""  # a failed write names no file
            what = f"{os.strerror(error.errno)}; {STORAGE_ADVICE[error.errno]}"
            print(f"error: {where}{what}; {RESUMES}", file=sys.stderr)
            return BAD_INPUT
        except KeyboardInterrupt:
            print(f"interrupted; {RESUMES}", file=sys.stderr)
            return INTERRUPTED
        finally:
            if before is not None:
                signal.signal(signal.SIGTERM, before)

    return wrapped


def list_first(items: list[str], n: int = 5) -> str:
    """The first n items for an error message, one a line, and how many more there are."""
    shown = "".join(f"\n  {item}" for item in items[:n])
    return shown + (f"\n  ... and {len(items) - n:,} more" if len(items) > n else "")
