"""What the machine computes on, in which precision, and the switches that make equal commands give equal bytes."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from .. import config
from ..errors import ModelError
from ..parallel import peak_memory_bytes, reset_peak_memory

PACKAGES = ("tensorflow", "keras", "numpy", "pandas", "scikit-learn", "pillow", "breakhis_cls")


def prepare(deterministic: bool, precision: str = "float32") -> None:
    """Set TensorFlow up before anything imports it; ModelError where it already runs with other switches."""
    # Op determinism alone is not enough on CPU: oneDNN's kernels and more than one inter-op thread still change bits
    # (three fine-tunings in fresh processes gave three results). On GPU determinism costs speed, and XLA is off.
    if deterministic and "tensorflow" not in sys.modules:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its log hides our warnings; real errors are raised
    with hold_stderr():
        import tensorflow as tf

    # Once TensorFlow runs it refuses these switches (RuntimeError): what is in force is checked below.
    with contextlib.suppress(RuntimeError), hold_stderr():
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        if os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0":
            advice = "call devices.prepare() first, set TF_ENABLE_ONEDNN_OPTS=0, or use --run.no_deterministic"
            raise ModelError(f"TensorFlow was imported with oneDNN on, which is not repeatable; {advice}")
        tf.config.experimental.enable_op_determinism()
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_inter_op_parallelism_threads(1)
        if tf.config.threading.get_inter_op_parallelism_threads() != 1:
            raise ModelError("TensorFlow already runs with several inter-op threads; call devices.prepare() first")
    import keras

    # Global: layers that are built from here on take it, unless they name their own.
    keras.config.set_dtype_policy(dtype_policy(precision))


@contextlib.contextmanager
def hold_stderr() -> Iterator[None]:
    """Hold back what libraries write to file descriptor 2 as they start; an error inside shows it."""
    try:
        visible = os.dup(2)
    except OSError:  # a process without stderr
        yield
        return
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)  # TensorFlow writes from C++, past sys.stderr
        failed = True
        try:
            yield
            failed = False
        finally:
            if failed:
                held.seek(0)
                os.write(visible, held.read())
            os.dup2(visible, 2)
            os.close(visible)


def dtype_policy(precision: str) -> str:
    """`auto` -> a Keras dtype policy: mixed where every GPU is good at it, else float32. Others stay as they are."""
    if precision != "auto":
        return precision
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    capability = min((one.get("compute_capability", (0, 0)) for one in details), default=(0, 0))
    # NVIDIA's tensor cores compute in bfloat16 from 8.0 (Ampere) on, in float16 from 7.0 (Volta) on.
    return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"


def distribution_strategy(replicas: list[str] | None = None) -> Any:
    """MirroredStrategy over `replicas` (all GPUs by default), or the default strategy where there is one at most."""
    import tensorflow as tf

    # MultiWorkerMirroredStrategy fails in fit (keras#20585): several machines share a sweep, one run each.
    replicas = [gpu.name for gpu in tf.config.list_logical_devices("GPU")] if replicas is None else replicas
    return tf.distribute.MirroredStrategy(replicas) if len(replicas) > 1 else tf.distribute.get_strategy()


@contextlib.contextmanager
def measure_cost(costs: dict[str, dict[str, float]], phase: str) -> Iterator[None]:
    """Enter seconds and peak GiB of what runs inside as `costs[phase]`: of the process, and what each GPU allocated."""
    memory, gpus = None, []
    if "tensorflow" in sys.modules:  # a head on cached features needs none
        import tensorflow as tf

        memory, gpus = tf.config.experimental, tf.config.list_logical_devices("GPU")
        for gpu in gpus:
            memory.reset_memory_stats(gpu.name)
    reset_peak_memory()
    started = time.monotonic()
    yield
    costs[phase] = {"seconds": round(time.monotonic() - started, 2)}
    used = {gpu.name: memory.get_memory_info(gpu.name)["peak"] for gpu in gpus} if memory else {}
    for name, n_bytes in {"process": peak_memory_bytes(), **used}.items():
        costs[phase][f"peak_gib_{name}"] = round(n_bytes / 2**30, 3)


def numerics(run: config.Run) -> dict[str, Any]:
    """What a run asks of the machine that may change a bit: part of the feature cache's key. Imports no TensorFlow."""
    gpus = gpu_names()
    is_onednn = not run.deterministic and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    return {
        "tensorflow": metadata.version("tensorflow"),
        "onednn": is_onednn,
        "inter_op_threads": 1 if run.deterministic else os.cpu_count(),
        "intra_op_threads": os.cpu_count(),
        "processor": platform.machine(),
        "devices": gpus or ["CPU"],
        "precision": "float32" if run.precision == "auto" and not gpus else run.precision,
    }


def gpu_names() -> list[str]:
    """Names of NVIDIA GPUs that this process may use, as their driver lists them. Imports no TensorFlow."""
    program = shutil.which("nvidia-smi")
    if not program or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def device_names() -> list[str]:
    """Kinds of the devices TensorFlow sees, GPUs by their own name."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus] or ["CPU"]


def environment(run: config.Run) -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    return {
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "devices": device_names() if "tensorflow" in sys.modules else gpu_names() or ["CPU"],
        "arithmetic": numerics(run),
    }
