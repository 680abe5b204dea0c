"""The pixel store: equal bytes however it came about, whole or not there, and never a damaged one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from conftest import needs_signals
from filelock import FileLock
from PIL import Image

from breakhis_cls import config, files, parallel
from breakhis_cls.data import index, png
from breakhis_cls.errors import DataError
from breakhis_cls.pipeline import pixel_store

SMALL = config.Image(height_px=23, width_px=35)
pytestmark = pytest.mark.filterwarnings("ignore:.*of BreakHis's:UserWarning")

SLOW_BUILDER = """
import sys, time, warnings
from pathlib import Path
from breakhis_cls import config
from breakhis_cls.data import index, png
from breakhis_cls.pipeline import pixel_store
warnings.simplefilter("ignore")
root, cache = sys.argv[1], Path(sys.argv[2])
data = config.Data(root=root, cache=cache)
images, decode, n_decoded = index.load_images(data), png.decode, []
def slow(path):
    n_decoded.append(path)
    time.sleep(0.02)
    return decode(path)
png.decode = slow
store = pixel_store.PixelStore.open(images, index.find_root(data), config.Image(height_px=23, width_px=35), cache)
print(len(n_decoded), store.key, int(store.array.sum(dtype="int64")))
"""


@pytest.fixture
def data(tiny_tree, tmp_path) -> config.Data:
    return config.Data(root=str(tiny_tree), cache=tmp_path / "cache")


@pytest.fixture
def decoded(monkeypatch) -> list[Path]:
    """The paths that have been decoded since the test began."""
    paths, decode = [], png.decode
    monkeypatch.setattr(png, "decode", lambda path: paths.append(path) or decode(path))
    return paths


def open_store(data: config.Data, image: config.Image = SMALL) -> pixel_store.PixelStore:
    return pixel_store.PixelStore.open(index.load_images(data), index.find_root(data), image, data.cache)


def with_cache(data: config.Data, cache: Path) -> config.Data:
    return data.model_copy(update={"cache": cache})


def start_builder(data: config.Data) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW_BUILDER, data.root, str(data.cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_row_is_its_image_resized(data):
    images, store = index.load_images(data), open_store(data)
    assert store.array.shape == (75, 23, 35, 3) and store.array.dtype == np.uint8 and len(store.rows) == 75
    assert isinstance(store.array, np.memmap) and not store.array.flags.writeable
    for row, file in enumerate(images["file"]):
        expected = pixel_store.fit_image(png.decode(index.find_root(data) / file), SMALL)
        np.testing.assert_array_equal(store.array[store.rows[row]], expected)
    np.testing.assert_array_equal(np.load(store.path, mmap_mode="r"), store.array)


def test_shuffled_images_share_the_store(data, decoded):
    store = open_store(data)
    images = index.load_images(data).sample(frac=1, random_state=0)
    decoded.clear()
    shuffled = pixel_store.PixelStore.open(images, index.find_root(data), SMALL, data.cache)
    assert decoded == [] and shuffled.path == store.path
    np.testing.assert_array_equal(shuffled.rows, images.index)


def test_a_second_opening_decodes_nothing_and_takes_no_lock(data, decoded, monkeypatch):
    first = open_store(data)
    assert len(decoded) == 75
    monkeypatch.setattr(files, "lock", None)
    assert open_store(data).key == first.key and len(decoded) == 75


def test_the_key_follows_settings_pixels_and_version(data, monkeypatch):
    images = [
        SMALL, config.Image(height_px=23, width_px=34), config.Image(height_px=23, width_px=35, fit="crop"),
    ]  # fmt: skip
    keys = [open_store(data, image).key for image in images]
    keys += [open_store(data.model_copy(update={"magnifications": (200,)})).key]
    monkeypatch.setattr(pixel_store, "VERSION", 1)  # a store of the old layout lies in another folder
    keys += [open_store(data).key]
    assert len(set(keys)) == 5


def test_the_key_does_not_follow_paths(data, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(data.root)
    assert open_store(config.Data(root=str(link), cache=tmp_path / "other")).key == open_store(data).key


def test_the_number_of_cores_changes_nothing(data, tmp_path, monkeypatch):
    contents = []
    for n in (1, 5):
        monkeypatch.setattr(parallel, "count_cores", lambda n=n: n)
        contents.append(open_store(with_cache(data, tmp_path / str(n))).path.read_bytes())
    assert contents[0] == contents[1]


@needs_signals
def test_a_killed_build_leaves_no_store_and_is_repeated(data, tmp_path, decoded):
    process = start_builder(data)
    while not list(data.cache.rglob(".pixels.*.npy")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(data.cache.rglob("pixels.npy"))
    again = open_store(data)
    assert len(decoded) == 75 and not list(data.cache.rglob(".pixels.*"))
    assert again.path.read_bytes() == open_store(with_cache(data, tmp_path / "undisturbed")).path.read_bytes()


def test_two_builders_at_once_build_once(data, tmp_path):
    index.load_images(data)
    processes = [start_builder(data), start_builder(data)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (out.split() for out, _ in outputs)
    assert int(first[0]) + int(second[0]) == 75 and first[1:] == second[1:]


def test_a_builder_waits_for_the_one_before_it(data, tmp_path):
    folder = data.cache / "pixels" / open_store(with_cache(data, tmp_path / "undisturbed")).path.parent.name
    folder.mkdir(parents=True)
    with FileLock(folder / "lock"):
        process = start_builder(data)
        assert process.stderr is not None
        assert any("another process builds" in line for line in process.stderr)  # until it says so, or ends
        assert process.poll() is None and not (folder / "pixels.npy").exists()
    out, _ = process.communicate()
    assert out.split()[0] == "75"


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, path.stat().st_size - 1),
    lambda path: os.truncate(path, 0),
    lambda path: path.write_bytes(b"X" * 128 + path.read_bytes()[128:]),
    lambda path: np.save(path, np.zeros((75, 23, 34, 3), np.uint8)),
    lambda path: np.save(path, np.zeros((75, 23, 35, 3), np.float32)),
    Path.unlink,
], ids=["cut_short", "empty", "no_header", "other_shape", "other_dtype", "missing"])  # fmt: skip
def test_a_store_that_is_damaged_or_foreign_is_built_again(damage, data, decoded):
    path = open_store(data).path
    sound = path.read_bytes()
    decoded.clear()
    damage(path)
    assert open_store(data).array.tobytes() == sound[128:]
    assert len(decoded) == 75 and path.read_bytes() == sound


def test_an_image_that_changed_since_the_index_is_refused(data):
    images = index.load_images(data)
    images.loc[5, "pixel_sha256"] = "0" * 64
    with pytest.raises(DataError, match="has changed since it was indexed"):
        pixel_store.PixelStore.open(images, index.find_root(data), SMALL, data.cache)
    assert not list(data.cache.rglob("*.npy"))


def test_a_full_disk_is_noticed_before_decoding(data, monkeypatch, decoded):
    usage = namedtuple("usage", "free")(1_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"1\.0 kB are free .*\(pixel store .*--data\.cache"):
        open_store(data)
    assert decoded == []


def test_no_images_is_an_error(data):
    with pytest.raises(DataError, match="no images"):
        pixel_store.PixelStore.open(index.load_images(data).head(0), index.find_root(data), SMALL, data.cache)


def settings(fit: str, height_px: int = 230, width_px: int = 350) -> config.Image:
    return config.Image.model_validate({"fit": fit, "height_px": height_px, "width_px": width_px})


def noise(height_px: int, width_px: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (height_px, width_px, 3), np.uint8)


@pytest.mark.parametrize("shape", [(460, 700), (456, 700), (224, 224), (23, 35)])
def test_stretch_is_pillows_resize_of_the_whole_field(shape):
    image = noise(*shape)
    expected = np.asarray(Image.fromarray(image).resize((350, 230), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(pixel_store.fit_image(image, settings("stretch")), expected)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_an_image_of_the_wanted_size_is_kept_as_it_is(fit):
    image = noise(230, 350)
    np.testing.assert_array_equal(pixel_store.fit_image(image, settings(fit)), image)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(460, 700), (1, 1), (3, 2_000), (2_000, 3), (224, 224)])
def test_every_shape_fits_and_a_flat_colour_stays_flat(fit, shape):
    fitted = pixel_store.fit_image(np.full((*shape, 3), (200, 100, 50), np.uint8), settings(fit, 64, 48))
    assert fitted.shape == (64, 48, 3) and fitted.dtype == np.uint8
    colours = {tuple(colour) for colour in fitted.reshape(-1, 3).tolist()}
    glass = (pixel_store.GLASS,) * 3
    assert (200, 100, 50) in colours and colours <= {(200, 100, 50), *([glass] if fit == "pad" else [])}


def test_crop_takes_the_centre_and_pad_keeps_all():
    image = np.zeros((100, 300, 3), np.uint8)
    image[:, 100:200] = 200  # the middle third
    cropped = pixel_store.fit_image(image, settings("crop", 50, 50))
    assert (cropped[:, 1:-1] == 200).all() and (cropped > 150).all()  # the filter looks a pixel beyond
    padded = pixel_store.fit_image(image, settings("pad", 60, 60))
    assert (padded[:20] == pixel_store.GLASS).all() and (padded[40:] == pixel_store.GLASS).all()
    assert (padded[20:40, 22:38] == 200).all() and (padded[20:40, :18] == 0).all()


def test_shrinking_averages_and_does_not_pick():
    stripes = np.zeros((460, 700, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = pixel_store.fit_image(stripes, settings("stretch", 46, 70))
    assert abs(int(shrunk[20, 20, 0]) - 127) <= 2


def test_the_real_images(shared, tmp_path):
    data = config.Data(root=str(shared / "breakhis/full"), cache=tmp_path, magnifications=(100,))
    images, store = index.load_images(data), open_store(data, config.Image())
    assert store.array.shape == (len(images), 230, 350, 3)
    odd = int(np.flatnonzero(images["height_px"] == 456)[0])
    source = Image.open(index.find_root(data) / images["file"][odd])
    expected = np.asarray(source.resize((350, 230), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(store.array[store.rows[odd]], expected)
