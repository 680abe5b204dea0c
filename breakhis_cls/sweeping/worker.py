"""What a sweep's processes do: train runs, or compute what runs share, one config after the other."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..data import index
from ..errors import DONE, INTERRUPTED, exits_cleanly

if TYPE_CHECKING:
    from ..train import TrainedRun


def follow_parent() -> None:
    """Let this process end with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        # Else a run could outlive a killed sweep or a dead node's worker, and hold the lock of its folder.
        parent.join()
        os._exit(INTERRUPTED)

    threading.Thread(target=end_with_parent, daemon=True).start()


def serve(tasks: Connection, environment: dict[str, str]) -> None:
    """Do each task that comes, (action, arguments, log), and answer with its exit code, until the parent ends. An error
    that nobody expected ends the process, and so costs the task under way alone."""
    os.environ |= environment
    follow_parent()
    index.IS_SCANNED_ONCE = True
    with contextlib.suppress(EOFError):  # the parent wants no more of us
        while True:
            action, arguments, log = tasks.recv()
            if log is not None:  # the log of the run takes the place of stdout and stderr
                log.parent.mkdir(parents=True, exist_ok=True)
                with log.open("ab") as opened:
                    os.dup2(opened.fileno(), 1)
                    os.dup2(opened.fileno(), 2)
            code = action(*arguments) or DONE
            if "keras" in sys.modules:
                sys.modules["keras"].backend.clear_session()  # else the graphs of all runs stay in memory
            sys.stdout.flush()
            sys.stderr.flush()
            tasks.send(code)


@exits_cleanly
def train_file(path: Path) -> int:
    """Train the run of a config; returns the exit code."""
    train(config.load_config(path))
    return DONE


@exits_cleanly
def prepare_files(*paths: Path) -> int:
    """Compute what the runs of configs share; returns the exit code."""
    for path in paths:
        prepare(config.load_config(path))
    return DONE


def train(settings: config.Config) -> "TrainedRun":
    """Train one run of a sweep. The report is left to the sweep; a frozen backbone is not saved again for each run."""
    from ..train import train_run

    # model.keras is some 95 MB; with a frozen backbone head.npz holds all that was trained, and `predict` reads it.
    changes = {} if settings.fine_tunes else {"run.save_model": False}
    return train_run(config.change_settings(settings, changes), report=False, intervals=False)


def prepare(settings: config.Config) -> None:
    """Compute what runs share and then find in the cache: index, pixel store, the frozen backbone's features."""
    from ..data import dataset
    from ..pipeline.pixel_store import PixelStore

    data = dataset.load_dataset(settings)
    if settings.features.source:
        return
    store = PixelStore.open(data.images, data.root, settings.image, settings.data.cache)
    from ..modeling import features

    hashes = data.images["pixel_sha256"].to_numpy()
    if settings.head.epochs:
        features.backbone_features(settings, hashes, store.array, store.rows)
