"""The whole way on a tiny tree: index, split, features, head, fine-tuning, predictions, metrics, report, prediction."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from test_png import TRUE_16_BIT
from tiny_backbone import TINY

from breakhis_cls import predict, train
from breakhis_cls.config import Config, parse_settings
from breakhis_cls.modeling import backbones, reference
from breakhis_cls.synthetic import tree


def picture(scale=46):
    """A field that is not the same in any other view."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (scale, scale + scale // 2, 3), dtype=np.uint8))


def settings(tree, here, **more):
    sections = {
        "name": "story",
        "data": {"root": str(tree), "cache": here / "cache", "magnifications": [40, 200]},
        "split": {"n_folds": 3},
        "image": {"height_px": 32, "width_px": 48},
        "model": {"weights": "random", "features": ["conv5"]},
        "head": {"epochs": 3, "batch_size": 8},
        "tune": {"part": "conv5", "epochs": 2, "batch_size": 8},
        "run": {"dir": here / "runs", "reports": here / "reports"},
    }
    for section, changes in more.items():
        sections[section] = sections.get(section, {}) | changes
    return Config.model_validate(sections)


@pytest.fixture(scope="module")
def story(tiny_tree, tmp_path_factory):
    here = tmp_path_factory.mktemp("story")
    given = settings(tiny_tree, here)
    return here, given, train.train_run(given)


def test_a_run_leaves_its_files(story):
    _, _, run = story
    left = {path.name for path in run.folder.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "split.csv",
        "history.csv",
        "model.keras",
        "reference.npz",
        "predictions.csv",
        "metrics.json",
    } <= left
    assert run.folder.name.startswith("story-0-0-")


def test_predictions_are_of_validation_and_test_and_add_up(story):
    _, _, run = story
    split = pd.read_csv(run.folder / "split.csv", dtype={"case": str})
    table = pd.read_csv(run.folder / "predictions.csv", dtype={"case": str})
    assert list(table["file"]) == list(split["file"][split["part"] != "train"])
    np.testing.assert_allclose(table[["p_benign", "p_malignant"]].sum(axis=1), 1, atol=1e-5)
    assert set(table["part"]) == {"validation", "test"}
    assert table["data"].str.startswith("sample-").all()
    assert not set(split["case"][split["part"] == "train"]) & set(table["case"])


def test_the_duplicate_is_dropped_and_recorded(story):
    _, _, run = story
    environment = json.loads((run.folder / "environment.json").read_text())
    dropped = environment["data"]["dropped_duplicates"]
    assert dropped and all("LC-14-13412" in file for file in dropped)
    assert not environment["data"]["complete"]


def test_history_holds_the_epochs(story):
    _, _, run = story
    history = pd.read_csv(run.folder / "history.csv")
    assert list(history["phase"].unique()) == ["tune"]  # the head before it is solved, not trained
    assert list(history["epoch"]) == list(range(1, len(history) + 1))


def test_the_report_is_whole(story):
    _, _, run = story
    left = {path.name for path in run.report().parent.iterdir()}
    assert {
        "index.html",
        "metrics.json",
        "confusion_matrix.png",
        "confusion_matrix.svg",
        "confusion_matrix_40x.png",
    } <= left
    page = run.report().read_text()
    assert "http://" not in page.replace("http://www.w3.org", "") and "medical device" in page


def test_the_same_command_again_does_nothing(story, capsys):
    _, given, run = story
    before = (run.folder / "predictions.csv").stat().st_mtime_ns
    assert train.train_run(given).folder == run.folder
    assert "nothing to do" in capsys.readouterr().out
    assert (run.folder / "predictions.csv").stat().st_mtime_ns == before


def test_predict_names_every_image_of_any_size(story, tiny_tree, tmp_path):
    _, _, run = story
    table = predict.predict_images(run.folder, [tiny_tree])
    assert len(table) == sum(1 for _ in tiny_tree.rglob("*.png"))
    kept = pd.read_csv(run.folder / "predictions.csv").set_index("file")["p_malignant"]
    ours = table.assign(file=table["file"].str.extract(r"(histology_slides.*)")[0]).set_index("file")["p_malignant"]
    np.testing.assert_allclose(ours[kept.index], kept, atol=1e-6)


def test_predict_tells_what_it_cannot_read(story, tmp_path, capsys):
    _, _, run = story
    assert predict.main([str(run.folder), str(tmp_path / "none.png")]) == 2
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert predict.main([str(run.folder), str(tmp_path)]) == 2
    assert "cannot be read as images" in capsys.readouterr().err
    assert predict.main([str(tmp_path), str(tmp_path)]) == 2


def test_predict_names_the_model_and_ends_with_a_summary(story, tiny_tree, capsys):
    _, _, run = story
    assert predict.main([str(run.folder), str(tiny_tree)]) == 0
    printed = capsys.readouterr()
    first, caution, *_, result = printed.err.splitlines()  # between them progress, where it took seconds
    assert first == f"model:  {run.folder}, trained on {run.predictions['data'][0]}"
    assert caution.startswith("Research use only") and re.match(r"result: 75 images, of which predicted: \d+", result)
    assert printed.out.startswith(
        "file,p_benign,p_malignant,predicted,probability,refused,refusal_reason,distance_percentile,nearest_benign,"
    )


def test_predict_refuses_what_eight_bits_cannot_hold(story, tmp_path, capsys):
    _, _, run = story
    Image.fromarray(np.full((46, 70), 40_000, np.uint16)).save(tmp_path / "deep.tif")
    assert predict.main([str(run.folder), str(tmp_path)]) == 2
    assert "without loss" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "save", "said"),
    [
        ("tiny.png", lambda path: picture(1).save(path), "1x1 px; expected a field of 32 px"),
        ("pages.tif", lambda path: picture().save(path, save_all=True, append_images=[picture()]), "2 pages or levels"),
        ("deep.png", lambda path: path.write_bytes(TRUE_16_BIT), "16 bits"),
        ("clear.png", lambda path: Image.new("RGBA", (70, 46), (200, 100, 150, 9)).save(path), "transparent pixels"),
    ],
)
def test_predict_refuses_what_is_no_single_field_in_eight_bits(story, tmp_path, capsys, name, save, said):
    save(tmp_path / name)
    assert predict.main([str(story[2].folder), str(tmp_path)]) == 2
    assert said in capsys.readouterr().err


def test_a_photograph_turned_by_exif_is_the_one_that_a_viewer_shows(story, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 270 degrees
    picture().save(tmp_path / "plain.tif")
    picture().transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.tif", exif=exif)
    table = predict.predict_images(story[2].folder, [tmp_path]).set_index("file")
    np.testing.assert_array_equal(*(table[["p_benign", "p_malignant"]].to_numpy()))


def test_a_model_is_read_beside_its_settings_or_not_at_all(story, tiny_tree, tmp_path, capsys):
    _, _, run = story
    tables = [predict.predict_images(model, [tiny_tree]) for model in (run.folder / "model.keras", run.folder)]
    pd.testing.assert_frame_equal(*tables)
    shutil.copy(run.folder / "model.keras", tmp_path)
    for away in (tmp_path / "model.keras", shutil.copy(run.folder / "model.keras", run.folder.parent / "mine.keras")):
        assert predict.main([str(away), str(tiny_tree)]) == 2
        assert "or the model.keras in it, beside its config.yaml" in capsys.readouterr().err


def test_predict_refuses_what_no_training_image_resembles(story, tiny_tree, tmp_path):
    _, _, run = story
    picture().save(tmp_path / "noise.png")
    Image.new("RGB", (70, 46), (255, 255, 255)).save(tmp_path / "white.png")
    table = predict.predict_images(run.folder, [tmp_path])
    assert table["refused"].all() and (table["distance_percentile"] == 100).all()
    assert table["refusal_reason"].str.startswith("farther from the training images than 99 %").all()
    assert set(table["predicted"]) <= {"benign", "malignant"}  # the label has a column of its own
    training = set(pd.read_csv(run.folder / "split.csv").query("part == 'train'")["file"])
    known = predict.predict_images(run.folder, [tiny_tree])
    assert not known["refused"].all()
    for label in ("benign", "malignant"):
        assert set(known[f"nearest_{label}"]) <= {one for one in training if f"/{label}/" in one}
    # every image is refused at a magnification that the model was not trained at
    other = predict.predict_images(run.folder, [tiny_tree], magnification=100)
    assert set(other["refusal_reason"]) == {"the model was trained at 40X, 200X, not at 100X"}


def test_predict_gives_the_calibrated_probability_of_the_predicted_class(story, tiny_tree, tmp_path):
    _, _, run = story
    held = reference.load_reference(run.folder)
    copy = shutil.copytree(run.folder, tmp_path / "run")
    reference.save_reference(copy, dataclasses.replace(held, about=held.about | {"temperature": 2.0}))
    table = predict.predict_images(copy, [tiny_tree])
    logit = np.log(table["p_malignant"] / table["p_benign"]) / 2
    expected = 1 / (1 + np.exp(-logit.abs()))
    np.testing.assert_allclose(table["probability"], expected, rtol=1e-5)
    assert set(held.files) == set(pd.read_csv(run.folder / "split.csv").query("part == 'train'")["file"])


def test_a_run_without_a_reference_predicts_and_says_that_nothing_is_refused(story, tiny_tree, tmp_path, capsys):
    _, _, run = story
    copy = shutil.copytree(run.folder, tmp_path / "run")
    (copy / "reference.npz").unlink()
    assert predict.predict_images(copy, [tiny_tree])["refused"].isna().all()
    assert "nothing is refused" in capsys.readouterr().err
    (copy / "reference.npz").write_bytes(b"no archive")
    assert predict.main([str(copy), str(tiny_tree)]) == 2
    assert "reference.npz" in capsys.readouterr().err


def test_commands_speak_in_one_sentence(tmp_path):
    command = [
        sys.executable,
        "-m",
        "breakhis_cls.train",
        "--data.root",
        str(tmp_path / "nowhere"),
        "--data.cache",
        str(tmp_path),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    error = answer.stderr.splitlines()[-1]
    assert error.startswith("error: ") and str(tmp_path / "nowhere") in error and "Traceback" not in answer.stderr


def test_a_finetune_config_trains_on_drawn_tissue(tmp_path, monkeypatch):
    """Head on frozen conv5, then conv5 with stain augmentation: what `finetune_200x` says, in small."""
    monkeypatch.setitem(backbones.BACKBONES, "ResNet50", TINY)
    tree.write_tree(tmp_path / "drawn", images_per_cell=1, slides=tree.SLIDES[::3])
    small = {"data.root": tmp_path / "drawn", "data.cache": tmp_path / "cache", "image.height_px": 32,
             "image.width_px": 48, "model.weights": "random", "tune.epochs": 1, "split.n_folds": 3,
             "run.dir": tmp_path / "runs"}  # fmt: skip
    options = [word for name, value in small.items() for word in (f"--{name}", str(value))]
    given = parse_settings(Config, ["--config", "finetune_200x", *options], "train", "")
    run = train.train_run(given, report=False)
    title = "ResNet50 (random) conv5, logistic head, conv5 fine-tuned"
    assert run.settings.augment.stain == 0.2 and not (run.folder / "head.npz").exists()
    assert pd.read_csv(run.folder / "predictions.csv")["model"].unique() == [title]
    assert list(pd.read_csv(run.folder / "history.csv")["phase"]) == ["tune"]
