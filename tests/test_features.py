"""Features are computed once, survive kills and damage, and equal those of the backbone."""

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import needs_signals

from breakhis_cls import config, parallel
from breakhis_cls.errors import ModelError
from breakhis_cls.modeling import devices, features, fit, network
from breakhis_cls.pipeline import batches

EXTRACT_APART = features.extract_apart  # before conftest puts the extraction into this process
HERE = Path(__file__).parent
N, HEIGHT, WIDTH = 70, 32, 48
PIXELS = np.random.default_rng(0).integers(0, 256, (N, HEIGHT, WIDTH, 3), dtype=np.uint8)
HASHES = np.array([f"{at:064x}" for at in range(N)])


def _settings(cache, **model):
    return config.Config.model_validate(
        {
            "data": {"cache": cache},
            "image": {"height_px": HEIGHT, "width_px": WIDTH},
            "model": {"weights": "random", "features": ["conv5"]} | model,
        }
    )


def _build_mean_model():
    image = keras.Input((HEIGHT, WIDTH, 3), dtype="uint8")
    cast = keras.layers.Rescaling(1 / 255)(image)
    return keras.Model(image, keras.layers.GlobalAveragePooling2D()(cast))


@pytest.fixture
def compute_means(monkeypatch):
    """Means in place of features: (settings, rows) -> (n, 3)."""
    monkeypatch.setattr(network, "build_backbone", lambda *_: _build_mean_model())
    monkeypatch.setattr(network, "widths", lambda _: {"conv5": 3})

    def compute(settings, rows=slice(None)):
        return features.backbone_features(settings, HASHES[rows], PIXELS, np.arange(N)[rows])

    return compute


def test_computed_once_and_shared_by_any_subset(tmp_path, compute_means, monkeypatch):
    whole = compute_means(_settings(tmp_path))
    np.testing.assert_allclose(whole, PIXELS.mean(axis=(1, 2)) / 255, rtol=1e-5)
    monkeypatch.setattr(features, "extract_apart", None)  # nothing is missing
    np.testing.assert_array_equal(compute_means(_settings(tmp_path), slice(60, 10, -7)), whole[60:10:-7])


@needs_signals
def test_an_extraction_that_was_killed_continues_to_the_same_bytes(tmp_path, monkeypatch):
    """SIGKILL in another process, while it writes its third shard."""
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    die_at_third = "os.fsync = lambda _, calls=itertools.count(1): next(calls) == 3 and os.kill(os.getpid(), 9)"
    small = "t.features.SHARD_ROWS = 16"
    child = (
        "import itertools, os, sys, conftest, test_features as t; "
        "from breakhis_cls.modeling import devices; devices.prepare(deterministic=True); "
        f"{small}; {die_at_third}; t._compute_convolutions(sys.argv[1])"
    )
    monkeypatch.setattr(features, "SHARD_ROWS", 16)
    answer = subprocess.run([sys.executable, "-c", child, killed], cwd=HERE, capture_output=True, check=False)
    before = _shards(killed)
    assert answer.returncode == -signal.SIGKILL and len(before) == 2, answer.stderr
    for folder in (killed, undisturbed):
        _compute_convolutions(folder)
    assert _shards(killed) == _shards(undisturbed) and before.items() <= _shards(killed).items()


def _compute_convolutions(folder):
    """Outputs of all rows, in shards of 16, by a model that convolves as a backbone does."""
    image = keras.Input((HEIGHT, WIDTH, 3), dtype="uint8")
    cast = keras.layers.Rescaling(1 / 255)(image)
    convolved = keras.layers.Conv2D(16, 3, kernel_initializer=keras.initializers.GlorotUniform(seed=0))(cast)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(convolved))
    list(features.write_shards(model, {"conv5": 16}, HASHES, PIXELS, np.arange(N), Path(folder)))
    return features.read_shards(Path(folder), ("conv5",))


def _shards(folder):
    return {path.name: path.read_bytes() for path in folder.glob("shard-*.npz")}


@pytest.mark.parametrize(
    "damage",
    [lambda raw: raw[: len(raw) // 2], lambda raw: raw[:200] + b"\xff" + raw[201:], lambda raw: b""],
    ids=["cut", "flipped", "empty"],
)
def test_a_damaged_shard_is_computed_again(tmp_path, damage, compute_means):
    whole = compute_means(_settings(tmp_path))
    (shard,) = tmp_path.rglob("shard-*")
    shard.write_bytes(damage(shard.read_bytes()))
    np.testing.assert_array_equal(compute_means(_settings(tmp_path)), whole)


def test_blocks_are_columns_of_one_extraction(tmp_path):
    rows = slice(0, 3)
    both = features.backbone_features(
        _settings(tmp_path, features=["conv4", "conv5"]), HASHES[rows], PIXELS, np.arange(3)
    )
    late = features.backbone_features(_settings(tmp_path), HASHES[rows], PIXELS, np.arange(3))
    assert both.shape == (3, 1024 + 2048)
    np.testing.assert_array_equal(both[:, 1024:], late)


def test_features_equal_the_backbone(tmp_path):
    settings = _settings(tmp_path)
    pooled = features.backbone_features(settings, HASHES[:5], PIXELS, np.arange(5))
    keras.utils.set_random_seed(settings.run.seed)
    backbone = network.build_backbone(settings.model)
    np.testing.assert_allclose(pooled, backbone(PIXELS[:5], training=False), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_head_on_features_trains_as_through_the_backbone(tmp_path):
    """The same rows in the same order: the same head, within what float32 adds up to."""
    settings = _settings(tmp_path)
    n, targets = 12, np.eye(2)[np.arange(12) % 2]
    keras.utils.set_random_seed(settings.run.seed)
    backbone = network.build_backbone(settings.model)
    backbone.trainable = False
    pooled = features.backbone_features(settings, HASHES[:n], PIXELS, np.arange(n))
    phase = config.Head(epochs=3, batch_size=4, peak_lr=0.01)
    weights = []
    for source, through in ((pooled, False), (PIXELS[:n], True)):
        head = network.build_head(2048, 2, 0.0, seed=0)
        model = network.join_model(backbone, head, settings.image) if through else head
        rows = batches.TrainingRows(source, np.arange(n), targets)
        fit.fit_phase(model, phase, rows, rows, tmp_path / "head", seed=0)
        weights.append(head.get_layer("probabilities").get_weights())
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_the_bits_of_a_row_do_not_depend_on_the_other_rows(tmp_path):
    settings = _settings(tmp_path / "whole")
    whole = features.backbone_features(settings, HASHES[:40], PIXELS, np.arange(40))
    apart = features.backbone_features(_settings(tmp_path / "apart"), HASHES[33:37], PIXELS, np.arange(33, 37))
    np.testing.assert_array_equal(whole[33:37], apart)


# --- the process of their own ---


def _extract_apart(cache, precision="float32", weights="random"):
    """Features of 40 rows by a fresh process, and the bytes of its shards."""
    changes = {"run.extraction_precision": precision, "model.weights": str(weights)}
    given = config.change_settings(_settings(cache), changes)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(features, "extract_apart", EXTRACT_APART)
        pooled = features.backbone_features(given, HASHES[:40], PIXELS, np.arange(40))
    return pooled, [path.read_bytes() for path in sorted(cache.rglob("shard-*"))]


def test_another_process_extracts_what_this_one_does(tmp_path):
    here = features.backbone_features(_settings(tmp_path / "here"), HASHES[:40], PIXELS, np.arange(40))
    apart, _ = _extract_apart(tmp_path / "apart")
    np.testing.assert_allclose(apart, here, rtol=1e-3, atol=1e-4)  # by oneDNN


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fresh_processes_extract_equal_bytes(tmp_path, precision):
    first, second = (_extract_apart(tmp_path / name, precision)[1] for name in ("one", "two"))
    assert first == second and len(first) == 1


def test_an_error_of_the_other_process_is_raised_here(tmp_path):
    (tmp_path / "other.weights.h5").write_bytes(b"no weights")
    with pytest.raises(ModelError, match="does not hold weights of ResNet50"):
        _extract_apart(tmp_path, weights=tmp_path / "other.weights.h5")


def _runs(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    return False


@needs_signals
def test_the_other_process_ends_with_this_one(tmp_path):
    """Killed while it waits for the first shard: what it started is gone soon after."""
    child = (
        "import sys, numpy as np, test_features as t\n"
        "real = t.features.subprocess.Popen\n"
        "def popen(*command, **options):\n"
        "    process = real(*command, **options)\n"
        "    print(process.pid, flush=True)\n"
        "    return process\n"
        "t.features.subprocess.Popen = popen\n"
        "list(t.EXTRACT_APART(t._settings('.'), t.HASHES, t.PIXELS, np.arange(t.N), t.Path(sys.argv[1])))"
    )
    with subprocess.Popen([sys.executable, "-c", child, tmp_path], cwd=HERE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert _runs(pid)
        run.kill()
    deadline = time.monotonic() + 60
    while _runs(pid):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.1)
    assert not list(tmp_path.glob("shard-*"))


def test_what_extraction_computes_in_is_part_of_the_key(monkeypatch):
    run = config.Run()
    apart = devices.numerics(run, extraction=True)
    assert apart["onednn"] and not devices.numerics(run)["onednn"]
    assert (
        devices.numerics(config.Run(extraction_precision="bfloat16"), extraction=True)["precision"] == "mixed_bfloat16"
    )
    for has_it, precision in ((True, "mixed_bfloat16"), (False, "float32")):
        monkeypatch.setattr(devices, "has_bfloat16", lambda has_it=has_it: has_it)
        assert devices.numerics(run, extraction=True)["precision"] == precision
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert devices.numerics(run, extraction=True) | {"backend": ""} != apart | {
        "backend": ""
    }  # its version, and no oneDNN
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(ModelError, match="expected tensorflow or jax"):
        devices.backend()


def test_a_prediction_keeps_no_pixels():
    """TensorFlow keeps what a stream of batches yields, so that memory would grow with every call."""
    model = keras.Sequential([keras.Input((128, 128, 3), dtype="uint8"), keras.layers.GlobalAveragePooling2D()])
    pixels = np.zeros((32, 128, 128, 3), np.uint8)
    peaks = []
    for _ in range(2):  # the first calls warm up
        for _ in range(60):
            features.predict_rows(model, pixels, np.arange(32))
        peaks.append(parallel.peak_memory_bytes())
    assert peaks[1] - peaks[0] < 30 * pixels.nbytes
