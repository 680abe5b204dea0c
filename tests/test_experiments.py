"""Which runs are folds of one experiment, and which are rivals."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_predictions import made

from breakhis_cls import config, names
from breakhis_cls.config import Config
from breakhis_cls.data import protocols
from breakhis_cls.errors import DataError
from breakhis_cls.evaluation import comparison, experiments


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


def test_names_say_what_differs_between_experiments():
    """What a person would call them: the protocol or the magnification itself, a number with its setting."""
    alike = {"folds": {}}
    penalty = {"image": {"split.protocol": "image"}, "case": {"split.protocol": "case"}}
    both = {"40": {"data.magnifications": [40]}, "both": {"data.task": "subtype", "data.magnifications": [40, 200]}}
    for settings, expected in (
        (alike, ["run-2-folds"]),
        (penalty, ["run-image", "run-case"]),
        ({0: {"head.C": 0.02}, 1: {"head.C": 0.1}}, ["run-C-0.02", "run-C-0.1"]),
        (both, ["run-40-binary", "run-40-200-subtype"]),
    ):
        sources = []
        for at, changes in enumerate(settings.values()):
            for fold in (0, 1):
                one = _run(fold, "here")
                changed = config.change_settings(one.settings, changes)
                table = one.table.assign(model=f"model {at}", protocol=changed.split.protocol)
                sources.append(dataclasses.replace(one, settings=changed, table=table))
        assert [one.name for one in experiments.group_experiments(sources)] == expected


def in_parts(protocol: str, **parts: list[int]) -> experiments.Experiment:
    """An experiment whose parts hold the slides of these numbers."""
    table = made().assign(protocol=protocol)
    at = {number: part for part, numbers in parts.items() for number in numbers}
    part = pd.Series(np.arange(60) // 4).map(at)
    return experiments.Experiment("one", (), table.assign(part=part)[part.notna()].reset_index(drop=True))


@pytest.mark.parametrize(("protocol", "test", "contradicted"), [
    ("case", [2, 3], False), ("case", [1, 3], True), ("slide", [1, 3], False), ("slide", [0], True),
    ("image", [0], False), ("mine-1a2b3c4d", [0], False),
])  # fmt: skip
def test_rows_of_test_and_validation_refute_a_claim(protocol, test, contradicted):
    """Slides 0 and 1 are two folders of case 22549."""
    one = in_parts(protocol, test=test, validation=[0])
    if test == [0]:  # one slide in both parts
        one.table["part"] = ["test", "validation"] * 2
    assert bool(experiments.split_contradictions(one)) == contradicted


def test_a_case_that_two_folds_test_in_part_refutes_a_claim():
    table = made().assign(fold=np.arange(60) % 2)
    assert "60 of 60 test images" in experiments.split_contradictions(experiments.Experiment("one", (), table))[0]
    whole = pd.concat([made(), made(fold=1)])  # folds that overlap may test a case twice
    assert experiments.split_contradictions(experiments.Experiment("one", (), whole.reset_index(drop=True))) == []


def test_rows_that_are_not_in_their_published_fold_are_counted():
    images = protocols.official_images().merge(made()[["file"]])
    parts = protocols.assign_parts(images, "spanhol", 2)
    table = made(fold=2).merge(images.assign(published=parts)[["file", "published"]], on="file")
    table = table.assign(protocol="spanhol", part=table["published"].replace("train", "validation"))
    assert experiments.split_contradictions(experiments.Experiment("one", (), table)) == []
    found = experiments.split_contradictions(experiments.Experiment("one", (), table.assign(fold=3)))
    assert "in another part than protocol spanhol" in found[-1]


@pytest.mark.parametrize(("column", "value"), [
    ("label", "malignant"), ("case", "P1"), ("slide", "S1"), ("subtype", "DC"), ("magnification", 400),
])  # fmt: skip
def test_tables_that_disagree_on_an_image_are_not_compared(column, value):
    one = made((40,)).assign(file=[f"{at}.png" for at in range(15)])
    other = one.assign(model="other")
    other.loc[3, column] = value
    sources = [experiments.Source(Path(f"{name}.csv"), table) for name, table in (("a", one), ("b", other))]
    with pytest.raises(DataError, match=rf"disagree on 1 images.*\n  3\.png: {column} .* in a, {value} in b"):
        comparison.align_experiments(experiments.group_experiments(sources))
    folds = [sources[0], experiments.Source(Path("b.csv"), other.assign(model="net", fold=1))]
    with pytest.raises(DataError, match="disagree on 1 images"):  # folds of one model, which would be pooled
        experiments.group_experiments(folds)


@pytest.mark.parametrize("path", ["C:\\x\\{}.png", "{}", "/data/{}.JPG"])
def test_images_are_matched_by_their_official_names(path):
    one, other = made(), made(seed=1).assign(model="other", seed=0)
    other["file"] = other["file"].map(lambda file: path.format(names.image_stem(file)))
    sources = [experiments.Source(Path(f"{name}.csv"), table) for name, table in (("a", one), ("b", other))]
    aligned = comparison.align_experiments(experiments.group_experiments(sources))
    assert [len(table) for table in aligned] == [60, 60]
    twice = experiments.group_experiments([sources[0], experiments.Source(Path("b.csv"), other.assign(model="net"))])
    assert len(twice) == 2  # the same rows again are not another fold
