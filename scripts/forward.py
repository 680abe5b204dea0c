"""How fast the bare forward pass is by batch size, XLA, oneDNN and threads: what modeling/features.py chose from.

python scripts/forward.py [--images 64] [--rounds 3] [--out FILE]     some 10 minutes on 2 cores; prints Markdown
Every setup keeps its own process (TensorFlow takes such switches only once) and they take turns, so that a machine
that slows down slows all of them. Random weights: they cost the same time as trained ones.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from breakhis_cls import config
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.files import write_text

BATCHES = (8, 16, 32, 64)
CHOSEN = "repeatable", 32  # what others are shown relative to: the default of runs, and features.BATCH_SIZE


class Switches(NamedTuple):
    """What a process is started with."""

    repeatable: bool
    n_threads: int  # within an op; 0: one a core


SETUPS = {
    "repeatable": (Switches(True, 0), False),
    "repeatable, XLA": (Switches(True, 0), True),
    "repeatable, one thread": (Switches(True, 1), False),
    "as TensorFlow comes": (Switches(False, 0), False),
    "as TensorFlow comes, XLA": (Switches(False, 0), True),
}  # title -> process and XLA; repeatable: oneDNN off, one inter-op thread, op determinism


class Forward(config.Section):
    """How long to measure."""

    images: config.PositiveInt = 64
    """At least so many a measurement."""
    rounds: config.PositiveInt = 3
    """The median of so many is taken."""
    out: Path | None = None
    """Where the Markdown table goes, too."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Measure and print images/s, and each as a share of the chosen one."""
    given = config.parse_settings(Forward, argv, "forward", __doc__ or "")
    text = markdown(rates(given))
    print(text)
    if given.out:
        write_text(given.out, text)
    return DONE


def rates(given: Forward) -> pd.DataFrame:
    """Images a second, one row a batch size and one column a setup."""
    context = multiprocessing.get_context("spawn")
    pools = {
        switches: ProcessPoolExecutor(1, context, _start, switches) for switches in {one for one, _ in SETUPS.values()}
    }
    spent: dict[tuple[str, int], list[float]] = {}
    for at in range(1 + given.rounds):
        for batch in BATCHES:
            for title, (switches, xla) in SETUPS.items():
                n = batch if at == 0 else max(given.images, batch)
                seconds = pools[switches].submit(_seconds_an_image, batch, xla, n).result()
                print(f"round {at}, batch {batch}, {title}: {1 / seconds:.2f} images/s", file=sys.stderr)
                if at:  # the first traces and compiles
                    spent.setdefault((title, batch), []).append(seconds)
    for pool in pools.values():
        pool.shutdown()
    return pd.Series({key: 1 / statistics.median(found) for key, found in spent.items()}).unstack(0)[list(SETUPS)]


def markdown(table: pd.DataFrame) -> str:
    """Images/s, and in brackets the share of the chosen one."""
    title, batch = CHOSEN
    chosen = float(table.at[batch, title])
    lines = [f"| batch | {' | '.join(table.columns)} |", f"|---:|{'---:|' * len(table.columns)}"]
    for size, row in table.iterrows():
        cells = [f"{rate:.1f} ({rate / chosen:.2f})" for rate in row]
        lines.append(f"| {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


_forwards: dict[bool, Any] = {}  # of this process: XLA -> compiled backbone


def _start(repeatable: bool, n_threads: int) -> None:
    """Set up a child's TensorFlow and its two forward passes."""
    from breakhis_cls.modeling import devices

    os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(not repeatable))
    devices.prepare(repeatable)
    import tensorflow as tf

    from breakhis_cls.modeling import features, network

    tf.config.threading.set_intra_op_parallelism_threads(n_threads)
    backbone = network.build_backbone(config.Model(weights="random"), features.ALL_BLOCKS)
    for xla in (False, True):
        _forwards[xla] = tf.function(lambda batch: backbone(batch, training=False), jit_compile=xla)


def _seconds_an_image(batch: int, xla: bool, n: int) -> float:
    import tensorflow as tf

    image = config.Image()
    pixels = tf.zeros((batch, image.height_px, image.width_px, 3), tf.uint8)
    started = time.perf_counter()
    for _ in range(n // batch):
        _forwards[xla](pixels).numpy()
    return (time.perf_counter() - started) / (n // batch * batch)


if __name__ == "__main__":
    sys.exit(main())
