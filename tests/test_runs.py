"""What a run's folder tells of a run that is still at work."""

import json

import pandas as pd

from breakhis_cls import config
from breakhis_cls.modeling import run_folder


def _epoch(folder, phase, n_done):
    rows = [{"phase": phase, "epoch": at, "loss": 1 / (1 + at)} for at in range(n_done)]
    path = folder / phase / f"epoch-{n_done:05}" / "state.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"history": rows}))


def test_history_grows_with_the_run_and_ends_as_the_table(tmp_path):
    run = run_folder.RunFolder(tmp_path, config.Config())
    assert run.history.empty
    _epoch(tmp_path, "tune", 1)
    _epoch(tmp_path, "head", 3)
    _epoch(tmp_path, "head", 2)  # the one before, not yet removed
    assert run.history["phase"].tolist() == ["head"] * 3 + ["tune"]
    run.write_table("history.csv", pd.DataFrame({"phase": ["head"], "epoch": [0]}))
    assert len(run.history) == 1
