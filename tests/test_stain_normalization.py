"""Stain normalisation: the paper's SVD is the oracle; poor fields are left alone; colours come together."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from breakhis_cls import names
from breakhis_cls.pipeline import stain_jitter, stain_normalization
from breakhis_cls.synthetic import tree

NAMES = [f"SOB_{slide}-200-001.png" for slide in ("B_A-14-90001AB", "B_F-14-90003", "M_DC-14-90008", "M_LC-14-90012")]


@pytest.fixture(scope="module")
def fields() -> list[np.ndarray]:
    """Synthetic tissue of four cases."""
    return [tree.draw_image(name)[0] for name in NAMES]


def mixed(stains: np.ndarray, strengths: np.ndarray, seed: int = 0) -> np.ndarray:
    """(120, 150, 3) uint8: pixels of either stain alone and of both, amounts up to about the strengths."""
    rng = np.random.default_rng(seed)
    amounts = rng.uniform(0.2, 1, (120, 150, 2)) * strengths
    amounts[:40, :, 0] = amounts[40:80, :, 1] = 0
    return np.rint(stain_normalization.I0 * np.exp(-amounts @ stains) - 1).clip(0, 255).astype(np.uint8)


def unit(rows: list[list[float]]) -> np.ndarray:
    return np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)


def mean_colours(images) -> np.ndarray:
    """(n, 3) mean OD."""
    return np.array([(-np.log((image / 255 * 239 + 1) / 240)).mean(axis=(0, 1)) for image in images])


@pytest.mark.parametrize(
    "stains", [unit([[0.6, 0.7, 0.3], [0.2, 0.9, 0.3]]), stain_normalization.STAINS], ids=["other", "reference"]
)
def test_the_stains_of_a_mixture_are_found(stains):
    strengths = np.array([1.4, 0.9])
    found, amounts = stain_normalization.estimate_stains(mixed(stains, strengths))
    np.testing.assert_allclose(found, stains, atol=0.03)
    np.testing.assert_allclose(amounts, strengths, rtol=0.05)


def test_the_stains_are_those_of_the_papers_svd(fields):
    """Macenko et al. 2009, algorithm 1, by numpy's SVD of all optical densities."""
    for field in fields:
        density = np.maximum(-np.log((field[::8, ::8].reshape(-1, 3) + 1.0) / 240), 0)
        tissue = density[(density**2).sum(axis=1) >= 0.15**2]
        axes = np.linalg.svd(tissue, full_matrices=False)[2][:2]
        axes[0] *= np.sign(axes[0].sum())
        on_plane = tissue @ axes.T
        on_plane /= np.linalg.norm(on_plane, axis=1, keepdims=True)
        extremes = np.percentile(np.arcsin(on_plane[:, 1]), [1, 99])
        expected = [np.cos(angle) * axes[0] + np.sin(angle) * axes[1] for angle in extremes]
        found, _ = stain_normalization.estimate_stains(field[::8, ::8])
        np.testing.assert_allclose(found, sorted(expected, key=lambda od: -od[0]), atol=1e-4)


def test_the_reference_is_left_as_it_is():
    image = mixed(stain_normalization.STAINS, stain_normalization.STRENGTHS)
    once = stain_normalization.normalize_stains(image)
    assert np.abs(once.astype(int) - image).mean() < 4
    assert np.abs(stain_normalization.normalize_stains(once).astype(int) - once).mean() < 1


def test_twice_is_nearly_once(fields):
    for field in fields:
        once = stain_normalization.normalize_stains(field)
        moved = np.abs(once.astype(int) - field).mean()
        moved_again = np.abs(stain_normalization.normalize_stains(once).astype(int) - once).mean()
        assert moved_again < 0.2 * moved and moved > 5


@pytest.mark.parametrize("spread", [(0.2, 0.2), (0.2, -0.2)], ids=["strength", "hue"])
def test_two_stainings_of_one_tissue_come_together(fields, spread):
    draws = np.array([(*spread, 0, 0), (*(-part for part in spread), 0, 0)], np.float32)
    before, after = [], []
    for field in fields:
        pair = stain_jitter.to_levels(stain_jitter.jitter_stains(np.stack([field, field]), draws)).numpy()
        before += [_distance(pair)]
        after += [_distance([stain_normalization.normalize_stains(image) for image in pair])]
    assert np.mean(after) < 0.5 * np.mean(before)


def _distance(pair) -> float:
    return float(np.linalg.norm(np.subtract(*mean_colours(pair))))


@given(
    height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 999), low=st.integers(0, 255),
    span=st.integers(0, 255), white=st.floats(0, 1),
)  # fmt: skip
def test_any_image_is_answered_without_a_warning_and_white_stays_white(height, width, seed, low, span, white):
    rng = np.random.default_rng(seed)
    image = rng.integers(low, min(255, low + span) + 1, (height, width, 3)).astype(np.uint8)
    glass = rng.random((height, width)) < white
    image[glass] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normalised = stain_normalization.normalize_stains(image)
    assert normalised.shape == image.shape and normalised.dtype == np.uint8
    assert (normalised[glass] == 255).all()
    np.testing.assert_array_equal(stain_normalization.normalize_stains(image), normalised)


@pytest.mark.parametrize("level", [0, 100, 236, 255])
def test_a_flat_field_is_returned_as_it_is(level):
    field = np.full((46, 70, 3), level, np.uint8)
    assert stain_normalization.normalize_stains(field) is field


def test_a_field_of_hardly_any_tissue_is_returned_as_it_is():
    field = np.full((460, 700, 3), 250, np.uint8)
    field[:40, :70] = mixed(stain_normalization.STAINS, stain_normalization.STRENGTHS)[:40, :70]  # 0.9 % of the field
    assert stain_normalization.normalize_stains(field) is field
    field[:50, :70] = mixed(stain_normalization.STAINS, stain_normalization.STRENGTHS)[30:80, :70]
    assert stain_normalization.normalize_stains(field) is not field


def test_one_pure_stain_is_returned_as_it_is():
    image = mixed(stain_normalization.STAINS, np.array([0, 1.5]))
    assert stain_normalization.normalize_stains(image) is image


def test_real_slides_come_closer_in_colour(shared):
    """The spread of the slides' mean OD, relative to its mean, and that of their hue; a third of the real fields."""
    paths = sorted((shared / "breakhis/full").rglob("*.png"))[::3]
    images = [np.asarray(Image.open(path).convert("RGB"))[::2, ::2] for path in paths]
    slides = np.array([names.parse_image_name(path.name).slide for path in paths])
    before, after = (
        _spreads(found, slides) for found in (images, [stain_normalization.normalize_stains(image) for image in images])
    )
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.3 * before[1]


def _spreads(images: list[np.ndarray], slides: np.ndarray) -> tuple[float, float]:
    colours = mean_colours(images)
    colours = np.array([colours[slides == slide].mean(axis=0) for slide in np.unique(slides)])
    hues = colours / colours.sum(axis=1, keepdims=True)
    return float((colours.std(axis=0) / colours.mean(axis=0)).mean()), float(hues.std(axis=0).mean())
