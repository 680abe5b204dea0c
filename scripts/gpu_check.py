"""What a GPU does here: one command for either backend, and a JSON file to send. Under 8 minutes; a CPU works too.

python scripts/gpu_check.py [--quick] [--out FILE]     with KERAS_BACKEND=jax before it JAX, which imports no TensorFlow
Measured on synthetic tissue at 230x350 with random weights, which cost the time of trained ones: extraction, a head,
fine-tuning in float32 and mixed precision, how long the device waits for data, and whether two runs give equal bytes.
"""

import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from breakhis_cls import config
from breakhis_cls.data import index
from breakhis_cls.errors import DONE, exits_cleanly
from breakhis_cls.files import write_json
from breakhis_cls.modeling import devices, features, head
from breakhis_cls.parallel import count_cores
from breakhis_cls.pipeline import batches
from breakhis_cls.pipeline.pixel_store import PixelStore
from breakhis_cls.synthetic import tree

BATCH_SIZES, PRECISIONS = (16, 32, 64), ("float32", "mixed_bfloat16")


class Check(config.Section):
    """What is measured."""

    quick: bool = False
    """Small images and few steps, for a look at whether it runs."""
    out: Path = Path("gpu_check.json")
    """Where the numbers go."""
    repeat: Path | None = None
    """Folder of the drawn images: only print the hash of the weights after a short, repeatable training."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Measure, write and print."""
    asked = config.parse_arguments(Check, argv, "gpu_check", __doc__)
    if asked.repeat:
        devices.prepare(deterministic=True)
        print(tune(*prepare(asked.quick, asked.repeat), "float32", BATCH_SIZES[0], 3)["sha256"])
        return DONE
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(asked.quick, Path(scratch))
    write_json(asked.out, found)
    print(json.dumps(found, indent=2), f"written to {asked.out}", sep="\n")
    return DONE


def prepare(quick: bool, scratch: Path) -> tuple[config.Config, PixelStore]:
    """Settings, and synthetic tissue decoded once: the same few pictures stand for as many as a device can take."""
    image = config.Image(height_px=32, width_px=48) if quick else config.Image()
    data = config.Data(root=str(scratch / "drawn"), cache=scratch / "cache")
    if not Path(data.root).exists():
        tree.write_tree(Path(data.root), images_per_cell=1, slides=tree.SLIDES[:: 40 if quick else 10])
    store = PixelStore.open(index.load_images(data), index.find_root(data), image, data.cache)
    return config.Config(data=data, image=image, model=config.Model(weights="random", features=("conv5",))), store


def measure(quick: bool, scratch: Path) -> dict[str, Any]:
    """All numbers by name."""
    started, run = time.monotonic(), config.Run(deterministic=False)
    devices.prepare(run.deterministic)
    settings, store = prepare(quick, scratch)
    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "quick": quick, "cores": count_cores()}
    found |= devices.environment(run)
    found["precision_by_auto"] = devices.dtype_policy("auto")
    is_gpu = bool(devices.list_gpus())
    n_extracted, n_steps = (2048, 20) if is_gpu and not quick else (64, 3)
    rows = np.resize(store.rows, n_extracted)

    # --- features and a head on them ---
    devices.prepare(False, devices.numerics(run, extraction=True)["precision"])
    from breakhis_cls.modeling import network

    backbone = network.build_backbone(settings.model)
    features.predict_rows(backbone, store.array, rows[:32])  # compiles
    pooled, seconds = timed(lambda: features.predict_rows(backbone, store.array, rows))
    found["extraction_images_per_s"] = n_extracted / seconds
    _, only_read = timed(lambda: [store.array[rows[at : at + 32]] for at in range(0, n_extracted, 32)])
    found["reading_images_per_s"] = n_extracted / only_read
    labels, cases = np.arange(n_extracted) % 2, np.arange(n_extracted) % 64
    _, seconds = timed(lambda: head.fit_logistic(pooled, labels, head.case_weights(labels, cases), 2, settings.head.C))
    found["head_seconds"] = seconds

    # --- fine-tuning of conv5; batches come straight from the pixel store, by NumPy ---
    tunings = found["fine_tuning"] = []
    precisions = PRECISIONS if is_gpu or quick else PRECISIONS[:1]  # few CPUs multiply in bfloat16
    for precision, batch_size in itertools.product(precisions, BATCH_SIZES[:1] if quick or not is_gpu else BATCH_SIZES):
        entry = tune(settings, store, precision, batch_size, n_steps)
        print(entry, file=sys.stderr)
        tunings.append(entry)

    # --- determinism: two short runs in fresh processes, with the switches that runs have ---
    command = [sys.executable, __file__, "--repeat", str(scratch), *["--quick"] * quick]
    again = [subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout for _ in range(2)]
    found["two_runs_give_equal_bytes"] = again[0] == again[1]
    found["imported_tensorflow"] = "tensorflow" in sys.modules
    return found | {"seconds": round(time.monotonic() - started)}


def tune(settings: config.Config, store: PixelStore, precision: str, batch_size: int, n_steps: int) -> dict[str, Any]:
    """Images a second, the share of it that the device waits for data, and peak memory, of conv5's fine-tuning."""
    import keras

    from breakhis_cls.modeling import network

    keras.backend.clear_session()
    keras.config.set_dtype_policy(precision)
    backbone = network.build_backbone(settings.model)
    network.set_trainable(backbone, settings.model.model_copy(update={"weights": "imagenet"}), "conv5")
    last = network.build_head(backbone.output_shape[-1], 2, 0.0, 0)
    model = network.join_model(backbone, last, settings.image)
    model.compile("adamw", "categorical_crossentropy", jit_compile=devices.jit_compile())
    n = batch_size * n_steps
    rows = batches.TrainingRows(
        store.array, np.resize(store.rows, n), np.eye(2)[np.arange(n) % 2], views=batches.ALL_VIEWS
    )
    read = batches.plan_batches(rows, batch_size, seed=0)
    waited = 0.0

    def stream(first: int, steps: int) -> Iterator[tuple[np.ndarray, ...]]:
        nonlocal waited
        for step in range(first, first + steps):
            inputs, seconds = timed(lambda step=step: read(step)[:3])
            waited += seconds
            yield inputs

    history = model.fit(stream(0, n_steps), steps_per_epoch=n_steps, verbose=0).history["loss"]  # compiles
    waited = 0.0
    _, seconds = timed(lambda: model.fit(stream(n_steps, n_steps), steps_per_epoch=n_steps, verbose=0))
    weights = b"".join(np.asarray(weight).tobytes() for weight in model.trainable_weights)
    return {
        "precision": precision, "batch_size": batch_size, "images_per_s": n / seconds,
        "share_waiting_for_data": waited / seconds,
        "peak_gib": peak_gib(),
        "loss": history[0], "sha256": hashlib.sha256(weights).hexdigest(),
    }  # fmt: skip


def peak_gib() -> dict[str, float]:
    """The most that was allocated on each GPU since the last call, which JAX cannot reset."""
    if devices.backend() == "jax":
        import jax

        stats = {str(device): device.memory_stats() for device in jax.devices()}
        return {name: one["peak_bytes_in_use"] / 2**30 for name, one in stats.items() if one}
    import tensorflow as tf

    memory, gpus = tf.config.experimental, [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    found = {gpu: memory.get_memory_info(gpu)["peak"] / 2**30 for gpu in gpus}
    for gpu in gpus:
        memory.reset_memory_stats(gpu)
    return found


def timed(work: Any) -> tuple[Any, float]:
    """What `work()` returns, and its seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
