"""Embeddings from elsewhere: every kind of file gives the bytes of the run that extracted them; damage is explained."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from test_story import settings
from tiny_backbone import TINY

from breakhis_cls import config, explain, features, predict, train
from breakhis_cls.data import embeddings, protocols
from breakhis_cls.errors import ConfigError, DataError, ModelError
from breakhis_cls.modeling import backbones

ENCODER = "ResNet50 (random) conv5"


@pytest.fixture(scope="module")
def extracted(tiny_tree, tmp_path_factory):
    """A run on images, its features in an .npz, and the table and matrix that the file holds."""
    here = tmp_path_factory.mktemp("extracted")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(backbones.BACKBONES, "ResNet50", TINY)
        given = settings(tiny_tree, here, tune={"part": "none"})
        given = config.change_settings(given, {"run.save_model": False})
        run = train.train_run(given, report=False)
        assert features.main([str(run.folder), "--out", str(here / "own.npz")]) == 0
    found = embeddings.load_embeddings(str(here / "own.npz"))
    return here, given, run, found.images, found.matrix


def _train(given, source, **changes):
    changes = {"features.source": str(source), "features.encoder": ENCODER, "data.root": "nowhere"} | changes
    return train.train_run(config.change_settings(given, changes), report=False)


def _write_lists(path, images, matrix):
    table = images[["file", "pixel_sha256"]].assign(embedding=[json.dumps(row.tolist()) for row in matrix])
    table.sample(frac=1, random_state=0).to_csv(path, index=False)  # in any order


def _write_lists_parquet(path, images, matrix):
    images[["file", "pixel_sha256"]].assign(embedding=list(matrix)).to_parquet(path)


def _write_npz_beside_csv(path, images, matrix):
    np.savez(path, matrix)
    images[["file", "pixel_sha256"]].to_csv(path.with_suffix(".csv"), index=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [(f"own{kind}", embeddings.write_embeddings) for kind in (".npz", ".npy", ".csv", ".parquet", ".h5")]
    + [("lists.csv", _write_lists), ("lists.parquet", _write_lists_parquet), ("beside.npz", _write_npz_beside_csv)],
)  # fmt: skip
def test_every_kind_of_file_gives_the_bytes_of_the_run_that_extracted_it(extracted, tmp_path, name, write):
    _, given, run, images, matrix = extracted
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    write(tmp_path / name, images, matrix)
    other = _train(given, tmp_path / name)
    assert (other.folder / "predictions.csv").read_bytes() == (run.folder / "predictions.csv").read_bytes()
    recorded = json.loads((other.folder / "environment.json").read_text())
    assert recorded["weights"]["name"] == ENCODER and len(recorded["weights"]["sha256"]) == 64
    assert any("sections model and image do not count" in sentence for sentence in recorded["warnings"])


def test_the_name_of_a_run_depends_on_the_content_and_not_on_the_place(extracted, tmp_path):
    _, given, _, images, matrix = extracted
    for name in ("one.csv", "two.csv", "other.csv"):
        embeddings.write_embeddings(tmp_path / name, images, matrix + (name == "other.csv"))
    names = [_train(given, tmp_path / name).folder.name for name in ("one.csv", "two.csv", "other.csv")]
    assert names[0] == names[1] != names[2]


def test_images_are_known_by_name_alone_and_the_copies_of_13412_by_their_case(extracted, tmp_path):
    """Without pixel hashes the data is named by its images, whoever encoded them; of 13412 one copy trains."""
    _, given, run, images, matrix = extracted
    plain = images[["file"]].assign(pixel_sha256="")
    embeddings.write_embeddings(tmp_path / "a.npz", plain, matrix)
    embeddings.write_embeddings(tmp_path / "b.csv", plain.assign(file=plain["file"].str[-30:]), matrix[:, ::-1])
    tables = [pd.read_csv(_train(given, tmp_path / name).folder / "split.csv") for name in ("a.npz", "b.csv")]
    assert tables[0].equals(tables[1]) and not tables[0]["slide"].str.contains("LC_14-13412").any()
    assert tables[0].equals(pd.read_csv(run.folder / "split.csv"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda images, matrix: (images[1:], matrix), "names and"),
        (lambda images, matrix: (images.assign(file=["x.png", *images["file"][1:]]), matrix), "x.png"),
        (lambda images, matrix: (images.assign(file=[images["file"][0].replace("-001", "-999"),
                                                     *images["file"][1:]]), matrix), "1 names that BreakHis does not"),
        (lambda images, matrix: (images.assign(file=[images["file"][1], *images["file"][1:]]), matrix),
         "1 images more than once"),
        (lambda images, matrix: (images, np.where(np.arange(len(matrix))[:, None] == 3, np.nan, matrix)),
         "1 rows with NaN"),
        (lambda images, matrix: (images, matrix * 0), "no two different embeddings"),
    ],
)  # fmt: skip
def test_damage_is_one_sentence(extracted, tmp_path, capsys, damage, message):
    _, given, _, images, matrix = extracted
    images, matrix = damage(images, matrix)
    np.savez(tmp_path / "bad.npz", filename=images["file"].to_numpy("U"), features=matrix)
    with pytest.raises(DataError, match=message):
        _train(given, tmp_path / "bad.npz")
    (tmp_path / "given.yaml").write_text(config.dump_config(given))
    assert train.main(["--config", str(tmp_path / "given.yaml"), "--features.source", str(tmp_path / "bad.npz")]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no such"),
        ("file,f0\n", "no two different"),
        ("slide,f0\na,1\n", "none called file"),
        ("file,other\na,1\n", "no columns f0, f1"),
        ('file,v\na,"[1, 2]"\nb,"[1]"\n', "names that BreakHis"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(tmp_path, content, message):
    path = tmp_path / "table.csv"
    if content:
        path.write_text(content)
    with pytest.raises(DataError, match=message if content else "does not exist"):
        embeddings.load_embeddings(str(path))


def test_mixed_widths_and_other_magnifications_are_named(extracted, tmp_path):
    *_, images, matrix = extracted
    np.savez(tmp_path / "mixed.npz", **{file.rpartition("/")[2]: np.arange(2.0 + (at == 0))
                                        for at, file in enumerate(images["file"])})  # fmt: skip
    with pytest.raises(DataError, match=r"has 2 widths; one encoder gives vectors of one length"):
        embeddings.load_embeddings(str(tmp_path / "mixed.npz"))
    embeddings.write_embeddings(tmp_path / "good.npz", images, np.column_stack([matrix, np.ones(len(matrix))]))
    with pytest.warns(UserWarning) as caught:
        only = embeddings.load_images(str(tmp_path / "good.npz"), (200,))
    assert set(only["magnification"]) == {200}
    sentences = " ".join(str(warning.message) for warning in caught)
    assert "15 images at 40X too; data.magnifications leaves them out" in sentences
    assert "of BreakHis's 2,013 images" in sentences and "columns" in sentences and "hold a single value" in sentences
    with pytest.raises(DataError, match="no images at 100X, 400X"):
        embeddings.load_images(str(tmp_path / "good.npz"), (100, 200, 400))


def test_several_patches_of_an_image_are_averaged_and_a_file_without_a_matrix_is_refused(tmp_path):
    patches = {f"SOB_B_A-14-22549AB-40-00{at}.png": np.array([[at, 0], [at, 4]]) for at in (1, 2)}
    np.savez(tmp_path / "patches.npz", **patches)
    assert embeddings.load_embeddings(str(tmp_path / "patches.npz")).matrix.tolist() == [[1, 2], [2, 2]]
    np.savez(tmp_path / "none.npz", filename=np.array(list(patches)), features=np.arange(2.0))
    with pytest.raises(DataError, match="holds no matrix"):
        embeddings.load_embeddings(str(tmp_path / "none.npz"))


def test_nothing_is_unpickled(extracted, tmp_path):
    images = extracted[3]
    names = images["file"].to_numpy(object)
    np.savez(tmp_path / "pickled.npz", filename=names, features=np.array([{}] * len(names)))
    np.save(tmp_path / "pickled.npy", np.array([{}] * len(names)))
    images[["file"]].to_csv(tmp_path / "pickled.csv", index=False)
    for name in ("pickled.npz", "pickled.npy"):
        with pytest.raises(DataError, match="cannot be read as embeddings: Object arrays cannot be loaded"):
            embeddings.load_embeddings(str(tmp_path / name))


def test_a_run_on_embeddings_imports_no_tensorflow_and_reports(extracted, tmp_path):
    here, given, *_ = extracted
    changes = {
        "features.source": str(here / "own.npz"),
        "run.dir": tmp_path / "runs",
        "run.reports": tmp_path / "reports",
    }
    (tmp_path / "mine.yaml").write_text(config.dump_config(config.change_settings(given, changes)))
    code = (
        "import sys; from breakhis_cls import train; code = train.main(sys.argv[1:]); "
        "sys.exit(code or 3 * bool({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, "--config", str(tmp_path / "mine.yaml"), "--data.root", "nowhere"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "own, logistic head" in next(tmp_path.glob("reports/*/index.html")).read_text()


@pytest.mark.parametrize(
    "changes",
    [{"tune.part": "conv5", "model.features": ("conv5",)}, {"head.epochs": 0}],
)
def test_settings_that_need_pixels_are_refused_when_they_are_read(extracted, changes):
    with pytest.raises(ConfigError, match=r"features.source has one embedding an image|nothing would be trained"):
        config.change_settings(extracted[1], {"features.source": "x.npz"} | changes)


def test_a_run_on_embeddings_predicts_and_explains_no_images(extracted, tiny_tree):
    here, given, *_ = extracted
    run = _train(given, here / "own.npz")
    with pytest.raises(ModelError, match="was fitted on the embeddings of"):
        predict.predict_images(run.folder, [tiny_tree])
    with pytest.raises(ModelError, match="was fitted on the embeddings of"):
        explain.explain_run(run.folder)


def test_official_names_are_all_readable(tmp_path):
    official = protocols.official_images()
    table = official[["file"]].assign(f0=np.arange(len(official)), f1=1.5)
    table.to_csv(tmp_path / "all.csv", index=False)
    found = embeddings.load_embeddings(str(tmp_path / "all.csv"))
    assert len(found.images) == 7_909 and found.images["file"].tolist() == official["file"].tolist()
