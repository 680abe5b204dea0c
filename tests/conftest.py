"""What all tests share: a tiny tree of true names, and the real images where a checkout has them."""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before anything imports TensorFlow
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # its kernels are not repeatable; read once, at import

import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from PIL import Image

from breakhis_cls import names

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)  # busy machines are slow
hypothesis.settings.load_profile("repeatable")

SLIDES = (   # real ones: 15 folders of 13 cases, all eight subtypes
    "SOB_B_A_14-22549AB", "SOB_B_A_14-22549CD", "SOB_B_F_14-14134", "SOB_B_F_14-9133", "SOB_B_F_14-23222AB",
    "SOB_B_PT_14-22704", "SOB_B_TA_14-13200", "SOB_B_TA_14-16184",
    "SOB_M_DC_14-13412", "SOB_M_LC_14-13412", "SOB_M_DC_14-2980", "SOB_M_DC_14-20629", "SOB_M_MC_14-16456",
    "SOB_M_PC_14-12465", "SOB_M_PC_15-190EF",
)  # fmt: skip
SIZE_PX = (70, 46)  # width, height; slide 12465 is 70x45 at 100X, as its original is 700x456
TINT = {"benign": (212, 165, 200), "malignant": (150, 108, 172)}  # RGB; more nuclei, more blue


needs_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows ends processes without signals")

LONGEST = ("test_soak.py", "test_notebooks.py", "test_sweep.py", "test_backbones.py", "test_docs.py", "test_ray.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that none runs alone at the end when files run side by side."""
    items.sort(key=lambda item: item.path.name not in LONGEST)  # a stable sort


def pytest_collection_finish(session: pytest.Session) -> None:
    """Make TensorFlow repeatable where a test module imported it: it takes these switches only before it runs.

    Tests of modules without TensorFlow do not wait for it.
    """
    if "tensorflow" in sys.modules:
        from breakhis_cls.modeling import devices

        devices.prepare(deterministic=True)


@pytest.fixture(scope="session", autouse=True)
def extract_here():
    """Features are computed in the test's own process, and so by its own backbone; tests of their process start it."""
    from breakhis_cls.modeling import devices, features

    def extract(settings, *rows):
        devices.prepare(settings.run.deterministic)  # first, since what follows in this process needs oneDNN off
        yield from features.extract(settings, *rows)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(features, "extract_apart", extract)
        yield


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that serves as `data.root`: 75 small PNGs in the official layout. Read only."""
    root = tmp_path_factory.mktemp("tiny") / "BreaKHis_v1"
    for slide in SLIDES:
        for magnification in names.MAGNIFICATIONS:
            for sequence in (1, 2) if magnification == 200 else (1,):
                path = root / names.official_path(image_name(slide, magnification, sequence))
                path.parent.mkdir(parents=True, exist_ok=True)
                level = 9 if "LC_14-13412" in slide else 1  # equal pixels, different bytes
                picture(slide, magnification, sequence).save(path, compress_level=level)
    return root.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images and weights beside the repository, or where BREAKHIS_SHARED says."""
    beside = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("BREAKHIS_SHARED", beside))
    if not (folder / "breakhis").is_dir():
        pytest.skip(f"no real images under {folder}; BREAKHIS_SHARED names another folder")
    return folder


def image_name(slide: str, magnification: int, sequence: int) -> str:
    """`SOB_B_A_14-22549AB`, 40, 1 -> `SOB_B_A-14-22549AB-40-001.png`."""
    kind, _, number = slide.rpartition("_")
    return f"{kind}-{number}-{magnification}-{sequence:03}.png"


def picture(slide: str, magnification: int, sequence: int) -> Image.Image:
    """Noise whose colour tells the label and, more faintly, the case; DC and LC of 13412 are the same."""
    case = int(names.parse_slide_name(slide).case)
    number = slide.rpartition("-")[2]  # with its block letters: sibling folders differ, DC and LC do not
    rng = np.random.default_rng((*number.encode(), magnification, sequence))
    width_px, height_px = SIZE_PX
    if case == 12465 and magnification == 100:
        height_px -= 1
    tint = np.array(TINT[names.parse_slide_name(slide).label]) + np.random.default_rng(case).normal(0, 8, 3)
    pixels = tint + rng.normal(0, 30, (height_px, width_px, 1)) + rng.normal(0, 8, (height_px, width_px, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
