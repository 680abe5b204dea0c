"""The page of `breakhis explain`: which images are shown, and the numbers and figures beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from breakhis_cls.evaluation.experiments import Experiment, Source
from breakhis_cls.reports import saliency_report
from breakhis_cls.reports.saliency_report import SaliencyImage


def predicted() -> pd.DataFrame:
    """Six slides of two images each; the most confident benign image is misclassified."""
    p = np.array([0.1, 0.2, 0.3, 0.95, 0.4, 0.05, 0.9, 0.8, 0.7, 0.6, 0.2, 0.99])
    label = np.repeat(["benign", "malignant"], 6)
    slide = [f"S{at // 2}" for at in range(12)]
    return pd.DataFrame(
        {"file": [f"{at:02}.png" for at in range(12)], "slide": slide, "case": slide, "label": label,
         "magnification": 200, "subtype": np.where(label == "benign", "F", "DC"), "fold": 0, "part": "test",
         "protocol": "case", "data": "synthetic-1a2b3c4d", "model": "net", "seed": 0, "p_benign": 1 - p,
         "p_malignant": p}
    )  # fmt: skip


def test_examples_are_the_most_confident_of_each_outcome():
    examples = saliency_report.select_examples(predicted(), 2)
    assert {kind: rows["at"].tolist() for kind, rows in examples.items()} == {
        "true positive": [11, 6], "false positive": [3], "false negative": [10], "true negative": [5, 0],
    }  # fmt: skip


def test_the_randomisation_check_spreads_over_cases():
    chosen = saliency_report.spread_over_cases(predicted(), 8)
    assert predicted().iloc[chosen]["case"].nunique() == 6
    assert len(chosen) == 8 and (np.diff(chosen) > 0).all()


def test_page_and_numbers(tmp_path: Path):
    table, rng = predicted(), np.random.default_rng(0)
    experiment = Experiment("run", (Source(tmp_path / "run", table),), table)
    examples = saliency_report.select_examples(table, 2)
    images = {
        at: SaliencyImage(np.full((46, 70, 3), 200, np.uint8), rng.random((46, 70)), "S\ntrue F") for at in range(12)
    }
    rows = [(share, image, draw, 0.5 - share / 2) for share in (0.0, 1.0) for image in range(3) for draw in (0, 1)]
    sanity = pd.DataFrame(rows, columns=["share", "image", "draw", "rho"])
    facts = saliency_report.write_saliency_report(tmp_path, experiment, examples, images, sanity)
    assert facts == json.loads((tmp_path / "explain.json").read_text())
    assert [(one["randomised"], one["median"]) for one in facts["sanity"]] == [("head", 0.5), ("all layers", 0.0)]
    page = (tmp_path / "index.html").read_text()
    assert 'class="banner synthetic">Synthetic tissue' in page and "not a medical device" in page
    figures = {path.stem for path in tmp_path.glob("*.png")}
    assert {"heat_true_positive", "heat_false_negative", "randomization"} <= figures
    for name in ("heat_true_positive.png", "randomization.svg", "explain.json"):
        assert f'href="{name}"' in page and (tmp_path / name).is_file()
    assert '<th scope="row">head</th>' + 4 * "<td>0.500</td>" in page

    # The page begins with the verdict: here a random head leaves half of the correlation, which is too much.
    assert (
        not facts["passed"] and "<h1>Sanity check failed: the heat maps hardly depend on what run learned</h1>" in page
    )
    assert "is 0.50 at most (head, 3 images)" in page
    lower = sanity.assign(rho=sanity["rho"] - 0.01)
    facts = saliency_report.write_saliency_report(tmp_path, experiment, examples, images, lower)
    assert facts["passed"] and facts["finding"].startswith("Sanity check passed: the heat maps depend")
