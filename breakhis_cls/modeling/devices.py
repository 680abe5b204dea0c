"""What the machine computes on, in which precision, and the switches that make equal commands give equal bytes.

Keras computes by TensorFlow or, with KERAS_BACKEND=jax in the environment, by JAX, which also knows GPUs that
TensorFlow 2.21 does not: NVIDIA's Blackwell.
"""

import contextlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import config
from ..errors import ModelError
from ..parallel import peak_memory_bytes, reset_peak_memory

PACKAGES = ("tensorflow", "jax", "keras", "numpy", "pandas", "scikit-learn", "pillow", "breakhis_cls")


def backend() -> str:
    """What Keras computes by, as the environment says: `tensorflow` or `jax`. Imports nothing."""
    name = os.environ.get("KERAS_BACKEND", "tensorflow")
    if name not in ("tensorflow", "jax"):
        raise ModelError(f"KERAS_BACKEND is {name}; expected tensorflow or jax, which this package was tested with")
    return name


def prepare(deterministic: bool, precision: str = "float32", onednn: bool = False) -> None:
    """Set Keras and its backend up before anything imports them; ModelError where it already runs otherwise.

    onednn: on CPU compute by oneDNN, which is fast, and repeatable in a forward pass alone.
    """
    os.environ["KERAS_BACKEND"] = backend()  # ~/.keras/keras.json may name another one
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's log hides our warnings; real errors are raised
    if backend() == "jax":
        _start_jax(deterministic)
    else:
        _start_tensorflow(deterministic, onednn)
    import keras

    # Global: layers that are built from here on take it, unless they name their own.
    keras.config.set_dtype_policy(dtype_policy(precision))


def _is_of_use(record: logging.LogRecord) -> bool:
    return "triggered tf.function retracing" not in str(record.msg)


def _start_tensorflow(deterministic: bool, onednn: bool) -> None:
    # Op determinism alone is not enough for training on CPU: oneDNN's kernels and more than one inter-op thread
    # still change bits (three fine-tunings in fresh processes gave three results). A forward pass by oneDNN does
    # not. On GPU determinism costs speed, and XLA is off.
    if deterministic and "tensorflow" not in sys.modules:
        os.environ["TF_ENABLE_ONEDNN_OPTS"] = str(int(onednn))
    with hold_stderr():
        import tensorflow as tf

    # It counts how often `predict` is traced over all models together, and advises what does not apply.
    logging.getLogger("tensorflow").addFilter(_is_of_use)
    # Once TensorFlow runs it refuses these switches (RuntimeError): what is in force is checked below.
    with contextlib.suppress(RuntimeError), hold_stderr():
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    if deterministic:
        if not onednn and os.environ.get("TF_ENABLE_ONEDNN_OPTS") != "0":
            advice = "call devices.prepare() first, set TF_ENABLE_ONEDNN_OPTS=0, or use --run.no_deterministic"
            raise ModelError(f"TensorFlow was imported with oneDNN on, which is not repeatable; {advice}")
        tf.config.experimental.enable_op_determinism()
        with contextlib.suppress(RuntimeError):
            tf.config.threading.set_inter_op_parallelism_threads(1)
        if tf.config.threading.get_inter_op_parallelism_threads() != 1:
            raise ModelError("TensorFlow already runs with several inter-op threads; call devices.prepare() first")


def _start_jax(deterministic: bool) -> None:
    if deterministic and "jax" not in sys.modules:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # else the first process takes all memory
    try:
        with hold_stderr():
            import jax

            jax.devices()
    except ImportError:
        raise ModelError("KERAS_BACKEND is jax, which is missing; pip install 'breakhis_cls[jax]'") from None


@contextlib.contextmanager
def hold_stderr() -> Iterator[None]:
    """Hold back what libraries write to file descriptor 2 as they start; an error inside shows it."""
    visible = os.dup(2)
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        os.dup2(held.fileno(), 2)  # TensorFlow writes from C++, past sys.stderr
        try:
            yield
            held.truncate(0)
        finally:
            held.seek(0)
            os.write(visible, held.read())
            os.dup2(visible, 2)
            os.close(visible)


def list_gpus() -> list[tuple[str, tuple[int, ...]]]:
    """Name and compute capability of each GPU that the backend sees."""
    if backend() == "jax":
        import jax

        gpus = [device for device in jax.devices() if device.platform == "gpu"]
        return [(gpu.device_kind, tuple(map(int, gpu.compute_capability.split(".")))) for gpu in gpus]
    import tensorflow as tf

    found = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return [(one.get("device_name", "GPU"), one.get("compute_capability", (0, 0))) for one in found]


def dtype_policy(precision: str) -> str:
    """`auto` -> a Keras dtype policy: mixed where every GPU is good at it, else float32. Others stay as they are."""
    if precision != "auto":
        return precision
    capability = min((capability for _, capability in list_gpus()), default=(0, 0))
    # NVIDIA's tensor cores compute in bfloat16 from 8.0 (Ampere) on, in float16 from 7.0 (Volta) on.
    return "mixed_bfloat16" if capability >= (8, 0) else "mixed_float16" if capability >= (7, 0) else "float32"


def training_scope() -> Any:
    """Context in which a model is built and trained: on all of this process's GPUs, or on the one device there is."""
    if backend() == "jax":
        import jax
        import keras

        names = [f"{device.platform}:{device.id}" for device in jax.devices()]
        return keras.distribution.DataParallel(devices=names).scope() if len(names) > 1 else contextlib.nullcontext()
    import tensorflow as tf

    # MultiWorkerMirroredStrategy fails in fit (keras#20585): several machines share a sweep, one run each.
    names = [gpu.name for gpu in tf.config.list_logical_devices("GPU")]
    return tf.distribute.MirroredStrategy(names).scope() if len(names) > 1 else contextlib.nullcontext()


def jit_compile() -> bool:
    """Whether models are compiled by XLA."""
    # JAX would compute each operation apart. In TensorFlow op determinism and CPUs switch it off: no run should differ.
    return backend() == "jax"


@contextlib.contextmanager
def measure_cost(costs: dict[str, dict[str, float]], phase: str) -> Iterator[None]:
    """Enter seconds and the process's peak GiB of what runs inside as `costs[phase]`."""
    reset_peak_memory()
    started = time.monotonic()
    yield
    seconds, peak_gib = time.monotonic() - started, peak_memory_bytes() / 2**30
    costs[phase] = {"seconds": round(seconds, 2), "peak_gib_process": round(peak_gib, 3)}


def numerics(run: config.Run, extraction: bool = False) -> dict[str, Any]:
    """What training, or the extraction of features, asks of the machine that may change a bit; part of the features'
    key. Imports no backend."""
    gpus = gpu_names()
    onednn = not run.deterministic and os.environ.get("TF_ENABLE_ONEDNN_OPTS", "1") != "0"
    precision = "float32" if run.precision == "auto" and not gpus else run.precision
    if extraction:
        onednn |= extracts_apart(run)
        if run.extraction_precision != "auto":
            precision = {"bfloat16": "mixed_bfloat16"}.get(run.extraction_precision, "float32")
        elif not gpus:
            precision = "mixed_bfloat16" if onednn and has_bfloat16() else "float32"
    return {
        "backend": backend(),
        "version": metadata.version(backend()),
        "onednn": onednn,
        "inter_op_threads": 1 if run.deterministic else os.cpu_count(),
        "intra_op_threads": os.cpu_count(),
        "processor": platform.machine(),
        "devices": gpus or ["CPU"],
        "precision": precision,
    }


def extracts_apart(run: config.Run) -> bool:
    """Whether features need a process of their own: on CPU, TensorFlow has oneDNN on for them and off for training."""
    return backend() == "tensorflow" and run.deterministic and not gpu_names()


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; without it oneDNN emulates, which is slower than float32."""
    with contextlib.suppress(OSError):  # Linux alone says so
        return not {"avx512_bf16", "amx_bf16"}.isdisjoint(Path("/proc/cpuinfo").read_text("utf-8").split())
    return False


def gpu_names() -> list[str]:
    """Names of NVIDIA GPUs that this process may use, as their driver lists them. Imports no backend."""
    program = shutil.which("nvidia-smi")
    if not program or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    command = [program, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def environment(run: config.Run) -> dict[str, Any]:
    """Versions and machine, for environment.json."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    seen = [name for name, _ in list_gpus()] if backend() in sys.modules else gpu_names()
    return {
        "versions": versions,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "devices": seen or ["CPU"],
        "arithmetic": numerics(run),
        "extraction": numerics(run, extraction=True),
    }
