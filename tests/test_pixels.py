"""pixels.py: one store, the same bytes however it came about, and never a damaged one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from breakhis_cls import config, parallel
from breakhis_cls.data import index, png
from breakhis_cls.errors import DataError
from breakhis_cls.pipeline import pixel_store, stain_normalization
from breakhis_cls.synthetic import tree

SMALL = config.Image(height_px=23, width_px=35)
CHUNK_BYTES = 4 * 23 * 35 * 3  # 4 images a chunk, 19 chunks for the tiny tree
pytestmark = pytest.mark.filterwarnings("ignore:.*of BreakHis's:UserWarning")

SLOW_BUILDER = """
import sys, time, warnings
from pathlib import Path
from breakhis_cls import config
from breakhis_cls.data import index
from breakhis_cls.pipeline import pixel_store
warnings.simplefilter("ignore")
root, cache = sys.argv[1], Path(sys.argv[2])
data = config.Data(root=root, cache=cache)
images, decode, n_decoded = index.load(data), index.decode, []
def slow(path):
    n_decoded.append(path)
    time.sleep(0.02)
    return decode(path)
index.decode, pixels.CHUNK_BYTES = slow, 4 * 23 * 35 * 3
store = pixels.PixelStore.open(images, index.root_of(data), config.Image(height_px=23, width_px=35), cache)
print(len(n_decoded), store.key, int(store.array.sum(dtype="int64")))
"""


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(pixel_store, "CHUNK_BYTES", CHUNK_BYTES)


@pytest.fixture
def data(tiny_tree, tmp_path) -> config.Data:
    return config.Data(root=str(tiny_tree), cache=tmp_path / "cache")


@pytest.fixture
def n_decoded(monkeypatch) -> list[Path]:
    """The paths that have been decoded since the test began."""
    seen, decode = [], index.decode
    monkeypatch.setattr(png, "decode", lambda path: seen.append(path) or decode(path))
    return seen


def opened(data: config.Data, image: config.Image = SMALL) -> pixel_store.PixelStore:
    return pixel_store.PixelStore.open(index.load_images(data), index.find_root(data), image, data.cache)


def elsewhere(data: config.Data, tmp_path: Path) -> config.Data:
    return data.model_copy(update={"cache": tmp_path / "undisturbed"})


def builder(data: config.Data) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW_BUILDER, data.root, str(data.cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_row_is_its_image_resized(data):
    images, store = index.load_images(data), opened(data)
    assert store.array.shape == (75, 23, 35, 3) and store.array.dtype == np.uint8 and len(store) == 75
    assert isinstance(store.array, np.memmap) and not store.array.flags.writeable
    for row, file in enumerate(images["file"]):
        expected = pixel_store.fit_image(index.decode(index.find_root(data) / file), SMALL)
        np.testing.assert_array_equal(store.array[store.rows[row]], expected)
    np.testing.assert_array_equal(np.load(store.path, mmap_mode="r"), store.array)


def test_shuffled_images_share_the_store(data, n_decoded):
    store = opened(data)
    images = index.load_images(data).sample(frac=1, random_state=0)
    n_decoded.clear()
    shuffled = pixel_store.PixelStore.open(images, index.find_root(data), SMALL, data.cache)
    assert n_decoded == [] and shuffled.path == store.path
    np.testing.assert_array_equal(shuffled.rows, images.index)


def test_a_second_opening_decodes_and_checks_nothing(data, n_decoded, monkeypatch):
    first = opened(data)
    assert len(n_decoded) == 75
    monkeypatch.setattr(pixel_store, "_complete", None)
    assert opened(data).key == first.key and len(n_decoded) == 75


def test_the_key_follows_settings_and_pixels(data, monkeypatch):
    keys = [opened(data).key]
    keys += [opened(data, config.Image(height_px=23, width_px=34)).key]
    keys += [opened(data, config.Image(height_px=23, width_px=35, fit="crop")).key]
    keys += [opened(data, config.Image(height_px=23, width_px=35, stains="macenko")).key]
    keys += [opened(data.model_copy(update={"magnifications": (200,)})).key]
    monkeypatch.setattr(pixel_store, "VERSION", 0)
    keys += [opened(data).key]
    assert len(set(keys)) == 6


def test_the_key_does_not_follow_paths(data, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(data.root)
    moved = config.Data(root=str(link), cache=tmp_path / "other")
    assert opened(moved).key == opened(data).key


def test_the_number_of_cores_changes_nothing(data, tmp_path, monkeypatch):
    contents = []
    for n in (1, 5):
        monkeypatch.setattr(parallel, "count_cores", lambda n=n: n)
        store = opened(data.model_copy(update={"cache": tmp_path / str(n)}))
        contents.append([file.read_bytes() for file in (store.path, store.path.with_name("chunks.txt"))])
    assert contents[0] == contents[1]


def test_a_killed_build_goes_on_to_equal_bytes(data, tmp_path, n_decoded):
    process = builder(data)
    deadline = time.monotonic() + 20
    while not any(file.read_text().count("\n") >= 3 for file in data.cache.rglob("chunks.txt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list(data.cache.rglob("checked.json"))
    resumed = opened(data)
    assert 0 < len(n_decoded) <= 75 - 3 * 4
    assert resumed.path.read_bytes() == opened(elsewhere(data, tmp_path)).path.read_bytes()


def test_two_builders_at_once_build_once(data, tmp_path):
    index.load_images(data)
    processes = [builder(data), builder(data)]
    outputs = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    first, second = (out.split() for out, _ in outputs)
    assert int(first[0]) + int(second[0]) == 75 and first[1:] == second[1:]
    assert opened(data).path.read_bytes() == opened(elsewhere(data, tmp_path)).path.read_bytes()


def test_a_builder_waits_for_the_one_before_it(data, tmp_path):
    index.load_images(data)
    folder = data.cache / "pixels" / opened(elsewhere(data, tmp_path)).path.parent.name
    with pixel_store._alone(folder):
        process = builder(data)
        assert process.stderr is not None
        assert "another process builds" in process.stderr.readline()
        assert not (folder / "pixels.npy").exists()
    out, _ = process.communicate(timeout=30)
    assert out.split()[0] == "75"


def flip(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(5_000)
        byte = file.read(1)
        file.seek(5_000)
        file.write(bytes([byte[0] ^ 1]))


def flip_through_a_map(path: Path) -> None:
    array = np.load(path, mmap_mode="r+")
    array[40, 3, 3, 1] ^= 255
    array.flush()


def flip_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(("damage", "n_made_again"), [
    (flip, 4),
    (flip_through_a_map, 4),
    (flip_and_set_the_time_back, 4),
    (lambda path: os.truncate(path, path.stat().st_size - 1), 3),
    (lambda path: os.truncate(path, 0), 75),
    (lambda path: path.write_bytes(path.read_bytes() + b"more"), 0),
    (lambda path: path.write_bytes(b"X" * 128 + path.read_bytes()[128:]), 0),   # the header alone
    (Path.unlink, 75),
    (lambda path: (path.with_name("chunks.txt").write_bytes(b"\xff0 torn"), flip(path)), 75),
    (lambda path: path.with_name("checked.json").unlink(), 0),
    (lambda path: path.with_name("checked.json").write_text("{"), 0),
])  # fmt: skip
def test_a_damaged_store_is_mended_where_it_is_damaged(damage, n_made_again, data, n_decoded):
    path = opened(data).path
    sound = path.read_bytes()
    n_decoded.clear()
    damage(path)
    mended = opened(data)
    assert len(n_decoded) == n_made_again
    assert path.read_bytes() == sound
    assert mended.array.tobytes() == sound[128:]


def test_an_image_that_changed_since_the_index_is_refused(data, tiny_tree, tmp_path):
    images = index.load_images(data)
    images.loc[5, "pixel_sha256"] = "0" * 64
    with pytest.raises(DataError, match="has changed since it was indexed"):
        pixel_store.PixelStore.open(images, index.find_root(data), SMALL, data.cache)
    assert not list(data.cache.rglob("checked.json"))


def test_a_cache_that_cannot_be_written_is_named(data):
    images, root = index.load_images(data), index.find_root(data)
    (data.cache / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*file.*--data\.cache"):
        pixel_store.PixelStore.open(images, root, SMALL, data.cache / "file")


def test_a_full_disk_is_noticed_before_decoding(data, monkeypatch, n_decoded):
    usage = pixel_store.shutil._ntuple_diskusage(10**9, 10**9, 1_000)
    monkeypatch.setattr(pixel_store.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match=r"needs 0\.0 GB more .* --data\.cache"):
        opened(data)
    assert n_decoded == []


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


@given(*[st.integers(1, 90)] * 4, st.sampled_from(["stretch", "crop", "pad"]))
def test_no_shape_is_too_odd(height_px, width_px, to_height_px, to_width_px, fit):
    image = np.zeros((height_px, width_px, 3), np.uint8)
    assert pixel_store.fit_image(image, settings(fit, to_height_px, to_width_px)).shape == (
        to_height_px,
        to_width_px,
        3,
    )


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_stains_are_normalised_on_the_field_at_its_full_size(fit):
    field = tree.draw_image("SOB_M_DC-14-90008-200-001.png")[0]
    as_is = settings(fit, 64, 64)
    expected = pixel_store.fit_image(stain_normalization.normalize_stains(field), as_is)
    fitted = pixel_store.fit_image(field, as_is.model_copy(update={"stains": "macenko"}))
    np.testing.assert_array_equal(fitted, expected)
    assert not np.array_equal(fitted, pixel_store.fit_image(field, as_is))


def test_shrinking_averages_and_does_not_pick():
    stripes = np.zeros((460, 700, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = pixel_store.fit_image(stripes, settings("stretch", 46, 70))
    assert abs(int(shrunk[20, 20, 0]) - 127) <= 2


def test_the_real_images(shared, tmp_path):
    data = config.Data(root=str(shared / "breakhis/full"), cache=tmp_path, magnifications=(100,))
    images, store = index.load_images(data), opened(data, config.Image())
    assert store.array.shape == (len(images), 230, 350, 3)
    odd = int(np.flatnonzero(images["height_px"] == 456)[0])
    source = Image.open(index.find_root(data) / images["file"][odd])
    expected = np.asarray(source.resize((350, 230), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(store.array[store.rows[odd]], expected)
