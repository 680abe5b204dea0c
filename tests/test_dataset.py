"""Images, split and classes of one run."""

import pandas as pd
import pytest

from breakhis_cls.data import dataset
from breakhis_cls.errors import DataError


def test_a_train_part_of_one_class_is_refused():
    split = pd.DataFrame({"label": ["malignant"] * 3, "part": ["train"] * 3, "fold": 0})
    with pytest.raises(DataError, match="only malignant images; expected at least two classes"):
        dataset._check_train(split, "binary")
