"""What a sweep's processes do: `python -m breakhis_cls.sweeping.worker train|prepare FILE [...]`, configs of runs."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..errors import DONE, INTERRUPTED, exits_cleanly

if TYPE_CHECKING:
    from ..train import TrainedRun


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Train, or compute what runs share, for each config; exit codes as everywhere."""
    end_with_parent()
    action, *files = sys.argv[1:] if argv is None else argv
    for path in files:
        {"train": train, "prepare": prepare}[action](config.load_config(Path(path)))
    return DONE


def train(settings: config.Config) -> TrainedRun:
    """Train one run of a sweep. The report is left to the sweep; a frozen backbone is not saved again for each run."""
    from ..train import train_run

    # model.keras is some 95 MB; with a frozen backbone head.npz holds all that was trained, and `predict` reads it.
    changes = {} if settings.fine_tunes else {"run.save_model": False}
    return train_run(config.change_settings(settings, changes), report=False)


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


def end_with_parent() -> None:
    """End this process when its parent ends, which holds the other end of stdin and never writes to it.

    Without this a run could outlive a killed sweep or a dead node's worker, and hold the lock of its folder.
    """

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter shuts down
        os._exit(INTERRUPTED)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
