"""`breakhis evaluate`: from a table of any framework, or from a run's folder, to a report."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_plots import HISTORY
from test_predictions import made

from breakhis_cls import config, evaluate

ENVIRONMENT = {
    "versions": {"python": "3.11"}, "machine": {"cores": 2}, "devices": ["CPU"], "git_commit": None,
    "data": {"name": "tiny", "sha256": "ab" * 32, "n_images": 75, "n_slides": 15, "n_cases": 13, "complete": False,
             "dropped_duplicates": ["x.png"], "broken": []},
    "weights": {"name": "ImageNet", "sha256": "cd" * 32}, "seconds": {"head": 1.5}, "warnings": ["a warning"],
}  # fmt: skip


def run_folder(base: Path, root: Path, fold: int = 0, name: str = "tiny") -> Path:
    """A finished run's folder over the tiny tree; the folds share out the slides."""
    folder = base / "runs" / f"{name}-{fold}-0-0123abc{fold}"
    folder.mkdir(parents=True)
    table = made(fold=fold)
    table[pd.factorize(table["case"])[0] % 2 == fold].to_csv(folder / "predictions.csv", index=False)
    HISTORY.to_csv(folder / "history.csv", index=False)
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    where = {"dir": base / "runs", "reports": base / "reports"}
    settings = config.Config(
        name=name, data=config.Data(root=str(root), cache=base / "cache"),
        split=config.Split(fold=fold, n_folds=2), run=config.Run(**where),
    )  # fmt: skip
    (folder / "config.yaml").write_text(config.dump_config(settings))
    return folder


def test_paths_of_windows_are_scored_as_others_are(tmp_path: Path) -> None:
    table = made()
    windows = table.assign(file="D:\\My data\\" + table["file"].str.replace("/", "\\"))
    numbers = []
    for name, one in (("plain", table), ("windows", windows)):
        one.to_csv(tmp_path / f"{name}.csv", index=False)
        assert evaluate.main([str(tmp_path / f"{name}.csv"), "--out", str(tmp_path / name)]) == 0
        numbers.append(json.loads((tmp_path / name / "metrics.json").read_text(encoding="utf-8")))
    assert numbers[0] == numbers[1]


def test_a_table_of_another_framework(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made().to_csv(tmp_path / "theirs.csv", index=False)
    monkeypatch.chdir(tmp_path)
    assert evaluate.main(["theirs.csv"]) == 0
    left = {path.name for path in (tmp_path / "reports" / "theirs").iterdir()}
    assert {
        "index.html",
        "metrics.json",
        "confusion_matrix.png",
        "confusion_matrix.svg",
        "confusion_matrix_40x.png",
    } <= left
    printed = capsys.readouterr().out
    numbers = json.loads((tmp_path / "reports" / "theirs" / "metrics.json").read_text())
    auc, counts = numbers["pooled"]["roc_auc"], numbers["confusion_matrix"]
    assert printed.startswith("theirs: 60 images, 15 slides, 13 cases tested\n  ROC AUC ")
    assert re.search(rf"ROC AUC +{auc['value']:.3f}", printed) and "report: reports/theirs/index.html" in printed
    rows = {name: [int(n) for n in numbers] for name, *numbers in re.findall(r"(\w+) +(\d+) +(\d+)\n", printed)}
    assert rows == {name: [*row.values()] for name, row in counts.items()} and len(printed.splitlines()) <= 12
    table = made()
    assert counts["malignant"]["benign"] == sum((table["label"] == "malignant") & (table["p_malignant"] < 0.5))
    assert numbers["pooled"]["roc_auc"]["n_images"] == 60


def test_a_run_shows_what_only_it_holds(tmp_path: Path, tiny_tree: Path) -> None:
    folder = run_folder(tmp_path, tiny_tree)
    report = evaluate.evaluate_runs([folder])
    assert report == tmp_path / "reports" / folder.name
    left = {path.name for path in report.iterdir()}
    assert {"learning_curves.png", "confident_errors.png"} <= left
    page = (report / "index.html").read_text(encoding="utf-8")
    assert (
        "a warning" in page
        and "1 of 2 folds" in page
        and f"../../runs/{folder.name}" in page
        and "ImageNet (SHA-256 cdcdcdcdcdcd" in page
    )


def test_folds_of_one_experiment_are_pooled(tmp_path: Path, tiny_tree: Path) -> None:
    folders = [run_folder(tmp_path, tiny_tree, fold) for fold in (0, 1)]
    report = evaluate.evaluate_runs(folders)
    assert report == tmp_path / "reports" / "tiny-2-folds"
    pooled = json.loads((report / "metrics.json").read_text())["pooled"]["image_accuracy"]
    assert (pooled["n_images"], pooled["n_cases"]) == (60, 13)


def test_a_bare_run_folder_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    half_done = [made(seed=seed, fold=fold)[fold::2] for seed, fold in ((0, 0), (0, 1), (1, 0))]
    pd.concat(half_done).to_csv(tmp_path / "run" / "predictions.csv", index=False)
    assert (evaluate.evaluate_runs([tmp_path / "run"], tmp_path / "out") / "index.html").is_file()
    assert "warning: run: seed 1 lacks fold 1." in capsys.readouterr().err


def test_bad_tables_end_with_2_and_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made().drop(columns="case").to_csv(tmp_path / "p.csv", index=False)
    assert evaluate.main([str(tmp_path / "p.csv"), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and "lacks columns: case;" in message and "Traceback" not in message
    assert not (tmp_path / "out").exists()
    assert evaluate.main([str(tmp_path)]) == 2  # the folder of an unfinished run
    assert "has no predictions.csv" in capsys.readouterr().err


def test_no_tensorflow(tmp_path: Path) -> None:
    made().to_csv(tmp_path / "p.csv", index=False)
    script = (
        "import sys; from breakhis_cls import evaluate\n"
        f"assert evaluate.main([{str(tmp_path / 'p.csv')!r}, '--out', {str(tmp_path / 'out')!r}]) == 0\n"
        "heavy = {'tensorflow', 'keras', 'matplotlib.pyplot'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    made().to_csv(tmp_path / "p.csv", index=False)
    folders = [evaluate.evaluate_runs([tmp_path / "p.csv"], tmp_path / name) for name in ("a", "b")]
    first, again = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders)
    assert first == again


def test_other_test_sets_are_refused_unless_common(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made().to_csv(tmp_path / "one.csv", index=False)
    made(magnifications=(40, 100)).assign(model="other").to_csv(tmp_path / "two.csv", index=False)
    both = [str(tmp_path / "one.csv"), str(tmp_path / "two.csv"), "--out", str(tmp_path / "out")]
    assert evaluate.main(both) == 2
    message = capsys.readouterr().err
    assert "the test sets differ, 30 images are common" in message and "one: 60 test images, 30 of its own" in message
    assert not (tmp_path / "out").exists()
    assert evaluate.main([*both, "--common"]) == 0
    # All numbers of the comparison are of the common images; a model's own page has those of its own test set.
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    auc = {name: one["pooled"]["roc_auc"] for name, one in found["experiments"].items()}
    assert found["n_images"] == auc["one"]["n_images"] == auc["two"]["n_images"] == 30
    assert found["comparisons"][0]["difference"] == pytest.approx(auc["two"]["value"] - auc["one"]["value"])
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert all(f"{one['value']:.3f}" in page for one in auc.values()) and page.count("30 test images") >= 3
    own = json.loads((tmp_path / "out" / "one" / "metrics.json").read_text())
    assert own["pooled"]["roc_auc"]["n_images"] == 60


def test_tables_of_one_name_get_a_folder_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        made().to_csv(tmp_path / name / "predictions.csv", index=False)
    evaluate.evaluate_runs([tmp_path / name / "predictions.csv" for name in ("a", "b")], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()} == {
        "a-predictions",
        "b-predictions",
    }
