"""docs/croissant.json: valid Croissant 1.1, written from the package's tables as they are now, with all records."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mlcroissant
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(ROOT / "scripts"))
import croissant  # noqa: E402


def test_the_description_is_of_the_tables_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["croissant.py", "--out", str(tmp_path)])
    croissant.main()
    written = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(written) == 4
    for path in written:
        assert (tmp_path / path).read_bytes() == (DOCS / path).read_bytes(), "run `make croissant`"


def test_it_is_valid_without_a_warning_and_holds_every_record():
    dataset = mlcroissant.Dataset(DOCS / "croissant.json")
    issues = dataset.metadata.issues
    assert (issues.errors, issues.warnings) == (set(), set())
    content = json.loads((DOCS / "croissant.json").read_text(encoding="utf-8"))
    assert content["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    counts = {name: sum(1 for _ in dataset.records(name)) for name in ("images", "slides", "cases")}
    assert counts == {"images": 7_909, "slides": 82, "cases": 70}


def test_cases_keep_together_and_twins_point_at_each_other():
    images = pd.read_csv(DOCS / "croissant" / "images.csv", dtype={"case": str}, keep_default_na=False)
    assert images["case"].nunique() == 70 and (images.groupby("case")["case_fold"].nunique() == 1).all()
    twins = images[images["twin"] != ""].set_index("file")["twin"]
    assert len(twins) == 242 and all(twins[twins[file]] == file for file in twins.index)
