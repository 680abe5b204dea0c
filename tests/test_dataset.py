"""Images, split and classes of one run."""

import shutil

import pandas as pd
import pytest

from breakhis_cls import names
from breakhis_cls.config import Config, Data, Head, Split
from breakhis_cls.data import dataset, index, protocols, splits
from breakhis_cls.errors import ConfigError, DataError


def test_a_train_part_of_one_class_is_refused(tiny_tree, tmp_path, monkeypatch):
    only_malignant = {"label": "malignant", "part": "train", "fold": 0}
    monkeypatch.setattr(splits, "assign_split", lambda images, *_: images.assign(**only_malignant))
    with pytest.raises(DataError, match="only malignant images; expected at least two classes"):
        dataset.load_dataset(Config(data=Data(root=str(tiny_tree), cache=tmp_path)))


def test_folders_do_not_change_what_data_and_split_are(tiny_tree, tmp_path):
    for path in tiny_tree.rglob("*.png"):  # sorted by name, 13412's copies lie the other way round
        folder = tmp_path / "own" / ("a" if "LC-14-13412" in path.name else "b")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    split = Split(protocol="image", allow_leaks=True)
    one, other = (
        dataset.load_dataset(Config(data=Data(root=str(root), cache=tmp_path / "cache"), split=split))
        for root in (tiny_tree, tmp_path / "own")
    )
    assert (one.name, one.sha256) == (other.name, other.sha256)
    assert one.split.drop(columns="file").equals(other.split.drop(columns="file"))


def test_one_slide_of_ones_own_does_not_make_the_set_synthetic(tiny_tree, tmp_path):
    root = shutil.copytree(tiny_tree, tmp_path / "tree")
    own = root / "BreaKHis_v1" / names.official_path("SOB_B_A-20-777-200-001.png")
    own.parent.mkdir(parents=True)
    shutil.copy(next(root.rglob("SOB_B_A-14-22549AB-200-001.png")), own)
    data = dataset.load_dataset(Config(data=Data(root=str(root), cache=tmp_path / "cache", duplicates="keep")))
    assert data.name.startswith("own-16slides-") and not data.is_synthetic


def test_folds_of_a_csv_that_name_different_images_are_one_experiment(tiny_tree, tmp_path):
    files = index.list_images(Data(root=str(tiny_tree)))
    rows = files.assign(part=files["case"].map(lambda case: "test" if int(case) % 2 else "train"), fold=0)
    other = rows[rows["sequence"] == 1].assign(part=rows["part"].map({"test": "train", "train": "test"}), fold=1)
    for name, table in (("mine.csv", rows[::2]), ("other.csv", rows[::3])):
        pd.concat([table, other])[["file", "fold", "part"]].to_csv(tmp_path / name, index=False)
    names_of_data = {
        dataset.load_dataset(Config(
            data=Data(root=str(tiny_tree), cache=tmp_path / "cache"),
            split=Split(protocol=str(tmp_path / "mine.csv"), fold=fold),
        )).name
        for fold in (0, 1)
    }  # fmt: skip
    assert len(names_of_data) == 1
    called = protocols.protocol_name(str(tmp_path / "mine.csv"))
    assert called.startswith("mine-") and called == protocols.protocol_name(f"{tmp_path}/../{tmp_path.name}/mine.csv")
    assert called.rpartition("-")[2] != protocols.protocol_name(str(tmp_path / "other.csv")).rpartition("-")[2]
    assert protocols.protocol_name("case") == "case"


@pytest.mark.parametrize("split", [{"fold": 7}, {"protocol": "image"}, {"protocol": "none.csv"}])
def test_a_split_that_does_not_exist_is_refused_before_images_are_read(tmp_path, split):
    with pytest.raises(ConfigError, match=r"split\.(fold|protocol) is"):
        dataset.load_dataset(Config(data=Data(root=str(tmp_path / "nothing")), split=Split(**split)))


def test_epochs_of_a_logistic_head_are_reported_as_without_effect(tiny_tree, tmp_path):
    data = Data(root=str(tiny_tree), cache=tmp_path)
    said = [
        any("head.epochs counts for head.kind keras only" in message for message in dataset.load_dataset(one).warnings)
        for one in (Config(data=data, head=Head(epochs=5)), Config(data=data, head=Head(kind="keras", epochs=5)))
    ]
    assert said == [True, False]
