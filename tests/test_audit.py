"""`breakhis audit`: exit codes, files, and what they say."""

from __future__ import annotations

import json
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from breakhis_cls import audit, names
from breakhis_cls.config import Data
from breakhis_cls.data import leakage
from breakhis_cls.reports import audit_report


def audited(tmp_path, *argv: str) -> tuple[int, dict]:
    code = audit.main([*argv, "--out", str(tmp_path / "out")])
    return code, json.loads((tmp_path / "out" / "audit.json").read_text())


def test_spanhol_from_names_alone_and_its_page(tmp_path, capsys):
    code, found = audited(tmp_path, "--split.protocol", "spanhol")
    assert code == 1
    assert (found["protocol"], len(found["folds"]), found["n_images"]) == ("spanhol", 5, 7_909)
    first = found["folds"][0]
    assert list(first) == ["fold", "n_train", "n_test", "test_slides", "test_cases", "leaks"]
    assert (first["fold"], first["n_train"], first["n_test"], first["test_slides"]) == (0, 5_005, 2_904, 28)
    assert list(first["leaks"]) == ["slide", "case", "pixels", "near_duplicate"]
    assert len(first["leaks"]["case"]["keys"]) == 8
    assert first["leaks"]["case"]["test_share"] == pytest.approx(0.394, abs=5e-4)
    assert all(fold["leaks"]["slide"]["keys"] == [] for fold in found["folds"])
    rows = pd.read_csv(tmp_path / "out" / "leaks.csv", dtype={"key": str})
    assert rows.columns.tolist() == ["fold", "file", "kind", "key", "seen_file", "n_seen"]
    assert (rows["fold"] == 0).sum() == first["leaks"]["case"]["test_images"] == 1_145
    printed = capsys.readouterr().out
    assert "39.4\u00a0%: 1,145 (8)" in printed and "27.0 % to 39.4 %" in printed
    html = (tmp_path / "out" / "index.html").read_text()
    assert "src=" not in html and "http" not in html and "<h1>Leaks in 5 of 5 folds: 27.0 % to 39.4 %" in html
    assert all(f'href="{name}"' in html for name in ("audit.json", "leaks.csv", "table.md", "table.tex"))
    assert "| 0 | 2,904 | 0 | 39.4\u00a0%: 1,145 (8) |" in (tmp_path / "out" / "table.md").read_text()
    assert '<table class="heat">' in html and "22549" in html and ">253</td>" in html


def test_leaderboards_and_case(tmp_path):
    code, found = audited(tmp_path, "--split.protocol", "kaiko_eva")
    assert code == 1
    [fold] = found["folds"]
    assert (fold["leaks"]["case"]["test_images"], fold["n_test"], fold["n_train"]) == (91, 339, 1_132)
    code, found = audited(tmp_path, "--split.protocol", "thunder")
    [fold] = found["folds"]
    assert code == 1 and (fold["leaks"]["case"]["test_images"], fold["n_test"], fold["n_train"]) == (91, 339, 1_132)
    assert found["told"][-1] == (
        "case numbers that test of fold 0 shares with train 16184, 19979, 23060 (75 test images) and with validation "
        "alone 18842 (16 test images)"
    )
    code, found = audited(tmp_path, "--split.protocol", "nanopath")
    assert code == 0 and (found["folds"][0]["n_train"], found["folds"][0]["n_test"]) == (936, 196)
    code, found = audited(tmp_path, "--split.protocol", "case")
    assert code == 0 and not any(fold["leaks"]["case"]["keys"] for fold in found["folds"])
    assert "Clean" in (tmp_path / "out" / "index.html").read_text()


def test_the_image_protocol_may_be_audited(tmp_path):
    code, found = audited(tmp_path, "--split.protocol", "image", "--data.magnifications", "40")
    assert code == 1 and found["folds"][0]["leaks"]["slide"]["test_share"] > 0.95


def test_bad_input_is_one_line(tmp_path, capsys):
    assert audit.main(["--split.protocol", "spanhl", "--out", str(tmp_path)]) == 2
    assert "did you mean 'spanhol'?" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert audit.main(["--out", str(tmp_path / "file" / "below")]) == 2
    assert "--out" in capsys.readouterr().err


def test_images_on_disk_show_equal_pixels(tiny_tree, tmp_path, capsys):
    argv = ["--data.root", str(tiny_tree), "--data.cache", str(tmp_path), "--split.protocol", "spanhol"]
    code, found = audited(tmp_path, *argv)
    assert code == 1 and found["with_images"]
    first = found["folds"][0]["leaks"]["pixels"]  # 13412: DC is in train, LC in test
    assert (len(first["keys"]), first["test_images"]) == (5, 5)
    assert "10 files hold 5 images" in capsys.readouterr().out


def test_a_mirrored_jpeg_under_another_name_is_found(tiny_tree, tmp_path):
    """The picture of a training slide, mirrored, squeezed to a square and saved as JPEG, stands in test."""
    seen, test = "SOB_B_F-14-9133-40-001.png", "SOB_M_DC-14-2980-40-001.png"
    [source] = tiny_tree.rglob(seen)
    root = tmp_path / "tree"
    for name in (seen, test):
        (root / names.official_path(name)).parent.mkdir(parents=True)
    picture = Image.open(source).resize((700, 460), Image.Resampling.BICUBIC)
    picture.save(root / names.official_path(seen))
    copy = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((224, 224))
    copy.save(tmp_path / "copy.jpg", quality=75)
    Image.open(tmp_path / "copy.jpg").save(root / names.official_path(test))
    (tmp_path / "mine.csv").write_text(f"file,part\n{seen},train\n{test},test\n")
    data = Data(root=str(root), cache=tmp_path / "cache", magnifications=(40,))
    found = leakage.audit_split(tmp_path / "mine.csv", data).leaks
    assert found[["kind", "key", "n_seen"]].to_numpy().tolist() == [["near_duplicate", seen, 1]]


def test_near_duplicates_alone_make_the_headline():
    kinds = {
        kind: {"keys": [], "test_images": 0, "test_share": 0.0, "benign_test_share": 0.0} for kind in leakage.KINDS
    }
    kinds["near_duplicate"] = {"keys": ["x"], "test_images": 3, "test_share": 0.12, "benign_test_share": 0.0}
    audit = leakage.Audit("mine.csv", True, pd.DataFrame(), pd.DataFrame(), [{"fold": 0, "leaks": kinds}], [])
    expected = "Leaks in 1 of 1 fold: 12.0 % of the test images are near duplicates of images that it has seen."
    assert audit_report.headline(audit) == expected


def test_a_weak_validation_is_told(tmp_path, capsys):
    rows = "SOB_B_A_14-22549AB,train\nSOB_B_A_14-22549CD,validation\nSOB_M_DC_14-2980,test\n"
    (tmp_path / "mine.csv").write_text("slide,part\n" + rows)
    code, found = audited(tmp_path, "--split.protocol", str(tmp_path / "mine.csv"))
    assert code == 0  # the test part is clean; what is chosen on validation is not
    assert any("validation of fold 0 is grouped less strictly" in sentence for sentence in found["told"])


def test_no_tensorflow():
    script = "import sys, breakhis_cls.audit; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
