"""What the machine computes on, and the switches that make equal commands give equal bytes."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from typing import Any

from ..errors import ModelError

_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow", "breakhis_cls")


def prepare(deterministic: bool) -> None:
    """Set TensorFlow up; call it before anything imports TensorFlow.

    Op determinism alone is not enough on CPU: oneDNN's kernels and more than one inter-op thread still move bits
    (three fine-tunings in fresh processes gave three results). On GPU it costs speed, and XLA is off.
    Raises ModelError where TensorFlow already runs with other switches.
    """
    if deterministic and "tensorflow" not in sys.modules:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its chatter hides our warnings; real errors are raised
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        _tolerant(lambda gpu=gpu: tf.config.experimental.set_memory_growth(gpu, True))
    if not deterministic:
        return
    if os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0":
        raise ModelError(
            "TensorFlow was imported with oneDNN on, which is not repeatable. Call devices.prepare() first, "
            "set TF_ENABLE_ONEDNN_OPTS=0 in the environment, or say --run.deterministic False"
        )
    tf.config.experimental.enable_op_determinism()
    if tf.config.threading.get_inter_op_parallelism_threads() != 1:
        _tolerant(lambda: tf.config.threading.set_inter_op_parallelism_threads(1))
        if tf.config.threading.get_inter_op_parallelism_threads() != 1:
            raise ModelError("TensorFlow already runs with several inter-op threads; call devices.prepare() first")


def arithmetic() -> dict[str, Any]:
    """All of the machine's side that may move a bit: part of the feature cache's key and of environment.json."""
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "processor": platform.machine(),
        "devices": names(),
    }


def names() -> list[str]:
    """Kinds of the devices TensorFlow sees, GPUs by their own name."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    return details or ["CPU"]


def environment() -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "devices": names(),
        "arithmetic": arithmetic(),
    }


def _tolerant(switch: Any) -> None:
    """TensorFlow refuses such switches once it runs (RuntimeError); the caller checks what holds."""
    try:
        switch()
    except RuntimeError:
        return
