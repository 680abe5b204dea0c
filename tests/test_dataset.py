"""Images, split and classes of one run."""

import pytest

from breakhis_cls.config import Config, Data
from breakhis_cls.data import dataset, splits
from breakhis_cls.errors import DataError


def test_a_train_part_of_one_class_is_refused(tiny_tree, tmp_path, monkeypatch):
    only_malignant = {"label": "malignant", "part": "train", "fold": 0}
    monkeypatch.setattr(splits, "assign_split", lambda images, *_: images.assign(**only_malignant))
    with pytest.raises(DataError, match="only malignant images; expected at least two classes"):
        dataset.load_dataset(Config(data=Data(root=str(tiny_tree), cache=tmp_path)))
