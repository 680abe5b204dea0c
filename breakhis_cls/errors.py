"""Errors that a user can fix, and the exit codes of commands. A message says what was found, expected, and to do."""

import errno
import functools
import io
import os
import signal
import sys
import threading
from collections.abc import Callable

# 1 is an answer and not an error: leaks were found, a tree is not complete, the machine lacks something.
DONE, ANSWER_IS_NO, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # 130 = 128 + SIGINT, as shells report Ctrl-C
RESUMES = "finished work is kept, and the same command continues from there"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a quota is usual for home folders on clusters
# What a disk says that lacks a function.
NO_FUNCTION = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


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


class RunInUseError(RunError):
    """Another process has the run's folder open."""


def exits_cleanly(main: Callable[..., int]) -> Callable[..., int]:
    """Give a command's main the package's exit codes: 0 done, 1 the answer is no, 2 bad input, 130 interrupted."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        # Clusters send SIGTERM some time before SIGKILL: treat it as Ctrl-C. Only the main thread may set handlers.
        for stream in (sys.stdout, sys.stderr):  # Windows writes CP1252 to files; a file's name need not be UTF-8
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(encoding="utf-8", errors="backslashreplace")
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
        try:
            return main(*args, **kwargs)
        except BreakHisError as error:
            print(f"error: {error}", file=sys.stderr)
            return BAD_INPUT
        except OSError as error:
            where = f"{os.fsdecode(error.filename)}: " if error.filename else ""  # a failed write names no file
            what = os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
            advice = "expected a folder that can be written, with no file in its place; choose another path"
            advice = "free some space there" if error.errno in NO_ROOM else advice
            print(f"error: {where}{what}; {advice}; {RESUMES}", file=sys.stderr)
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
