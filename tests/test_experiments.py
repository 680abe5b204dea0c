"""Which runs are folds of one experiment, and which are rivals."""

from pathlib import Path

import pandas as pd

from breakhis_cls.config import Config
from breakhis_cls.evaluation import experiments


def _run(fold, root, epochs=3):
    settings = Config.model_validate({"data": {"root": root}, "split": {"fold": fold}, "head": {"epochs": epochs}})
    table = pd.DataFrame({
        "file": [f"SOB_B_A-14-22549AB-40-00{fold}.png"], "slide": "SOB_B_A_14-22549AB", "case": "22549",
        "magnification": 40, "label": "benign", "subtype": "A", "fold": fold, "part": "test", "protocol": "case",
        "data": "sample", "model": "ours", "seed": 0, "p_benign": 0.8, "p_malignant": 0.2,
    })  # fmt: skip
    return experiments.Source(Path(f"{root}-{fold}"), table, settings)


def test_folds_are_one_experiment_wherever_the_images_lie():
    assert len(experiments.group_experiments([_run(0, "here"), _run(1, "there")])) == 1


def test_another_setting_is_another_experiment():
    assert len(experiments.group_experiments([_run(0, "here"), _run(1, "here", epochs=4)])) == 2
