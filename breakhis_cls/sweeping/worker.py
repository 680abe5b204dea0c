"""What a sweep's processes do: `python -m breakhis_cls.sweeping.worker train|prepare FILE [...]`, configs of runs; or
`serve`, which does the same for every line on stdin, so that many short runs share a process's start.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..errors import DONE, INTERRUPTED, exits_cleanly

if TYPE_CHECKING:
    from ..train import TrainedRun


def main(argv: list[str] | None = None) -> int:
    """Train, or compute what runs share, for each config; exit codes as everywhere."""
    lines, arguments = end_with_parent(), sys.argv[1:] if argv is None else argv
    if arguments[0] != "serve":
        return run_action(*arguments)
    answers, code = os.dup(1), DONE
    while code != INTERRUPTED:
        *arguments, log = json.loads(lines.get())
        with Path(log).open("ab") as opened:  # the log of the run takes the place of stdout and stderr
            os.dup2(opened.fileno(), 1)
            os.dup2(opened.fileno(), 2)
        code = run_action(*arguments)  # an error that nobody expected ends the process, and so costs this run alone
        if "keras" in sys.modules:
            sys.modules["keras"].backend.clear_session()  # else the graphs of all runs stay in memory
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(answers, b"%d\n" % code)
    return code


@exits_cleanly
def run_action(action: str, *files: str) -> int:
    """`train` or `prepare` each config; returns the exit code."""
    for path in files:
        {"train": train, "prepare": prepare}[action](config.load_config(Path(path)))
    return DONE


def train(settings: config.Config) -> TrainedRun:
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
    for view in range(settings.n_feature_views):
        features.backbone_features(settings, hashes, store.array, store.rows, view)


def end_with_parent() -> queue.SimpleQueue[bytes]:
    """End this process when its parent ends, which holds the other end of stdin; returns the lines that it writes.

    Without this a run could outlive a killed sweep or a dead node's worker, and hold the lock of its folder.
    """

    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def watch() -> None:
        begun = b""
        while chunk := os.read(0, 65536):  # not sys.stdin: its lock would be held when the interpreter shuts down
            *whole, begun = (begun + chunk).split(b"\n")
            for line in whole:
                lines.put(line)
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()
    return lines


if __name__ == "__main__":
    sys.exit(main())
