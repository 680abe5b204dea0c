"""What a sweep's processes do: `python -m breakhis_cls.sweeping.child run|prepare FILE [...]`, config files of runs."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from .. import config
from ..errors import DONE, INTERRUPTED, exits_cleanly


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Do it; exit codes as everywhere."""
    end_with_parent()
    what, *files = sys.argv[1:] if argv is None else argv
    work = {"run": run, "prepare": prepare}[what]
    for path in files:
        work(config.load_config(Path(path)))
    return DONE


def run(settings: config.Config) -> None:
    """`train`, whose report is left to the sweep."""
    from ..train import train_run

    train_run(settings, report=False)


def prepare(settings: config.Config) -> None:
    """Make what runs share, so that they find it made: index, pixel store, and the frozen backbone's features."""
    from ..data import dataset as materials
    from ..pipeline.pixel_store import PixelStore

    material = materials.load_dataset(settings)
    store = PixelStore.open(material.images, material.root, settings.image, settings.data.cache)
    if not settings.head.epochs:
        return
    from ..modeling import devices

    devices.prepare(settings.run.deterministic, settings.run.precision)  # before anything imports TensorFlow
    from ..modeling import features
    from ..pipeline import batches

    hashes, views = material.images["pixel_sha256"].to_numpy(), batches.ALL_VIEWS[: settings.head.views]
    features.backbone_features(settings, hashes, store.array, store.rows, views)


def end_with_parent() -> None:
    """The parent holds the other end of stdin and never writes, so that the end of file is the end of the parent.

    Without this a run could outlive a killed sweep or a dead node's worker, and hold the lock of its folder.
    """

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter shuts down
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
