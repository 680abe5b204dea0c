"""The leak penalty's table, sentence and figure, on predictions whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from breakhis_cls.reports import penalty, plots


def _predictions(protocol, error):
    """16 cases of 4 images; `error` of every case's images are named wrongly."""
    n, cases = 64, np.repeat(np.arange(16), 4)
    label = np.where(cases < 8, "benign", "malignant")
    wrong = np.arange(n) % 4 < 4 * error
    p = np.where((label == "malignant") ^ wrong, 0.9, 0.1)
    return pd.DataFrame({
        "file": [f"image-{at}.png" for at in range(n)], "slide": cases.astype(str), "case": cases.astype(str),
        "magnification": 200, "label": label, "subtype": np.where(cases < 8, "F", "DC"), "fold": 0, "part": "test",
        "protocol": protocol, "data": "made-up", "model": "made-up", "seed": 0, "p_benign": 1 - p, "p_malignant": p,
    })  # fmt: skip


@pytest.fixture
def penalties():
    both = pd.concat([_predictions("case", 0.25), _predictions("image", 0.0)], ignore_index=True)
    return penalty.table(both, n_resamples=200)


def test_values_by_hand(penalties):
    value = penalties.set_index(["protocol", "metric"])["value"]
    assert list(dict.fromkeys(penalties["protocol"])) == ["image", "case"]
    for metric in ("image_accuracy", "balanced_accuracy", "recognition_rate"):
        assert value["image", metric] == 1
        assert value["case", metric] == pytest.approx(0.75)
    # One in four scores is on the wrong side, on each side: of all pairs 9/16 are right, 6/16 tied, 1/16 wrong.
    assert value["case", "roc_auc"] == pytest.approx(9 / 16 + 3 / 16)


def test_the_sentence_says_protocols_and_intervals(penalties):
    said = penalty.sentence(penalties, "made-up data")
    assert "by image" in said and "0.75" in said and "by case" in said and "made-up data" in said


def test_the_figure_says_the_finding(penalties, tmp_path):
    drawn = penalty.figure(penalties, "made-up data")
    assert "25.0 points higher" in drawn.get_suptitle().replace("\n", " ")
    assert all(path.stat().st_size for path in plots.save(drawn, tmp_path, "leak_penalty"))
