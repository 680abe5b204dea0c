"""What the machine computes on, in which precision, and the switches that make equal commands give equal bytes."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import ModelError

_PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow", "breakhis_cls")


def prepare(deterministic: bool, wanted_precision: str = "float32") -> None:
    """Set TensorFlow up; call it before anything imports TensorFlow.

    Op determinism alone is not enough on CPU: oneDNN's kernels and more than one inter-op thread still move bits
    (three fine-tunings in fresh processes gave three results). On GPU it costs speed, and XLA is off.
    wanted_precision: see `precision`. Raises ModelError where TensorFlow already runs with other switches.
    """
    if deterministic and "tensorflow" not in sys.modules:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its chatter hides our warnings; real errors are raised
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        _tolerant(lambda gpu=gpu: tf.config.experimental.set_memory_growth(gpu, True))
    if deterministic:
        _make_repeatable(tf)
    import keras

    keras.config.set_dtype_policy(dtype_policy(wanted_precision))


def dtype_policy(wanted: str) -> str:
    """`auto` -> a Keras dtype policy: mixed where every GPU is good at it, float32 elsewhere. Others stay as they are.

    bfloat16 from compute capability 8.0 on, float16 from 7.0 on (NVIDIA's tensor cores).
    """
    if wanted != "auto":
        return wanted
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    weakest = min((found.get("compute_capability", (0, 0)) for found in details), default=(0, 0))
    return "mixed_bfloat16" if weakest >= (8, 0) else "mixed_float16" if weakest >= (7, 0) else "float32"


def distribution_strategy(replicas: list[str] | None = None) -> Any:
    """MirroredStrategy over `replicas` (all GPUs by default), or the default strategy where there is one at most."""
    import tensorflow as tf

    replicas = [gpu.name for gpu in tf.config.list_logical_devices("GPU")] if replicas is None else replicas
    return tf.distribute.MirroredStrategy(replicas) if len(replicas) > 1 else tf.distribute.get_strategy()


def reset_peak_memory() -> None:
    """Start a new measurement of peak memory; on CPU it needs Linux, else the peak is that of the whole process."""
    import tensorflow as tf

    for gpu in tf.config.list_logical_devices("GPU"):
        tf.config.experimental.reset_memory_stats(gpu.name)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: proc(5)


def peak_memory_gib() -> dict[str, float]:
    """GiB at the highest since `forget_peaks`: resident memory of the process, and each GPU's allocations."""
    import tensorflow as tf

    gpus = tf.config.list_logical_devices("GPU")
    used = {gpu.name: tf.config.experimental.get_memory_info(gpu.name)["peak"] for gpu in gpus}
    return {name: round(n_bytes / 2**30, 3) for name, n_bytes in {"process": _peak_resident(), **used}.items()}


def _peak_resident() -> int:
    """Bytes."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _make_repeatable(tf: Any) -> None:
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


def numerics() -> dict[str, Any]:
    """All of the machine's side that may move a bit: part of the feature cache's key and of environment.json."""
    import keras
    import tensorflow as tf

    return {
        "tensorflow": tf.__version__,
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0",
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads() or os.cpu_count(),
        "processor": platform.machine(),
        "devices": device_names(),
        "precision": keras.config.dtype_policy().name,
    }


def device_names() -> list[str]:
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
        "devices": device_names(),
        "arithmetic": numerics(),
    }


def _tolerant(switch: Any) -> None:
    """TensorFlow refuses such switches once it runs (RuntimeError); the caller checks what holds."""
    try:
        switch()
    except RuntimeError:
        return
