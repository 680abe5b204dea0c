"""The search: ranges, one study shared by several processes, a killed process, and test parts that are not read."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import yaml
from conftest import needs_signals
from test_story import settings as story_settings
from test_sweep import HANGS_S, wait_for
from tiny_backbone import TINY

from breakhis_cls import config, train
from breakhis_cls.errors import DataError, ModelError, RunInUseError
from breakhis_cls.modeling import backbones
from breakhis_cls.sweeping import search
from breakhis_cls.sweeping.search import Range, Search

SPACE = Search.model_validate(
    {
        "trials": 8,
        "ranges": {
            "head.peak_lr": {"low": 1e-4, "high": 1e-1, "log": True},
            "head.batch_size": {"low": 8, "high": 64},
            "model.features": {"choices": [["conv4"], ["conv5"], ["conv4", "conv5"]]},
        },
    }
)


def runs_of(values, folds=(0, 1, 2)):
    """A trial is one run a fold."""
    found = []
    for fold in folds:
        content = config.Config(name="tried", tune=config.Tune(part="none")).model_dump(mode="json")
        content["split"]["fold"] = fold
        for setting, value in values.items():
            section, key = setting.split(".")
            content[section][key] = value
        found.append(config.Config.model_validate(content))
    return found


def table(right_by, p_of_test="0.5"):
    """Twelve validation images of six cases, each predicted right with probability `right_by`, and as many of test."""
    rows = []
    for part in ("validation", "test"):
        for at in range(12):
            malignant = at // 2 % 2
            p = right_by if malignant else 1 - right_by
            p = f"{p}" if part == "validation" else p_of_test
            rows.append({
                "file": f"{part}-{at}.png", "slide": f"s{part}{at // 2}", "case": f"{part}{at // 2}",
                "magnification": 200, "label": ("benign", "malignant")[malignant], "subtype": ("F", "DC")[malignant],
                "fold": 0, "part": part, "protocol": "case", "data": "made-up", "model": "made-up", "seed": 0,
                "p_benign": 1 - float(p) if p.replace(".", "").isdigit() else p, "p_malignant": p,
            })  # fmt: skip
    return pd.DataFrame(rows)


class Fake:
    """Writes predictions without training: the closer the rate is to 0.01, the better. Keeps all settings."""

    def __init__(self, folder, p_of_test="0.5"):
        self.folder, self.p_of_test, self.asked = folder, p_of_test, []

    def __call__(self, settings):
        self.asked.append(settings)
        here = self.folder / f"{len(self.asked)}-{os.getpid()}"
        here.mkdir(parents=True)
        off = abs(np.log10(settings.head.peak_lr) + 2) / 4 + 0.01 * settings.split.fold
        table(0.95 - off, self.p_of_test).to_csv(here / "predictions.csv", index=False)
        return train.TrainedRun(here, settings)


def trials(folder):
    return study_of(folder).get_trials()


def study_of(folder):
    journal = optuna.storages.journal
    storage = optuna.storages.JournalStorage(journal.JournalFileBackend(str(folder / "journal.log")))
    return optuna.load_study(study_name=None, storage=storage)  # the only one


@pytest.mark.parametrize(
    "wrong", [{}, {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": 1, "log": True}, {"choices": [1]},
              {"low": 1, "high": 2, "choices": [1, 2]}, {"lowest": 1, "high": 2}],
)  # fmt: skip
def test_a_range_is_two_ends_or_choices(wrong):
    with pytest.raises(ValueError):
        Range.model_validate(wrong)


def test_a_search_ends_with_an_ordinary_config_of_the_best_trial(tmp_path, capsys):
    fake = Fake(tmp_path / "runs")
    best = search.search("tried", SPACE, runs_of, tmp_path / "study", fake)
    found = config.load_config(best)
    done = [one for one in trials(tmp_path / "study") if one.value is not None]
    top = min(done, key=lambda one: one.value)
    assert found.head.peak_lr == pytest.approx(top.params["head.peak_lr"], rel=1e-3)
    assert list(found.model.features) == json.loads(top.params["model.features"])
    assert found.head.batch_size == top.params["head.batch_size"] and isinstance(found.head.batch_size, int)
    text = best.read_text()
    assert f"log_loss {top.value:.4f}" in text and "best of 8" in text and "Test parts were not looked at" in text
    differing = {"name", "head", "model", "split", "tune"}  # from the defaults
    assert set(yaml.safe_load(text)) <= differing
    assert capsys.readouterr().out.count("trials done") == 8

    # The objective is the mean over the runs of validation log loss, by hand of the first trial.
    off = abs(np.log10(fake.asked[0].head.peak_lr) + 2) / 4
    by_hand = np.mean([-np.log(0.95 - off - 0.01 * fold) for fold in (0, 1, 2)])
    assert trials(tmp_path / "study")[0].value == pytest.approx(by_hand)


def test_a_table_without_validation_rows_has_no_score(tmp_path):
    rows = table(0.9)
    rows[rows["part"] == "test"].to_csv(tmp_path / "tests.csv", index=False)
    with pytest.raises(DataError, match="no rows of part validation"):
        search.score(tmp_path / "tests.csv", "log_loss")


def test_a_whole_search_is_the_same_without_a_test_part(tmp_path):
    for name, p in (("right", "0.99"), ("nonsense", "x")):
        search.search("tried", SPACE, runs_of, tmp_path / name, Fake(tmp_path / f"runs-{name}", p))
    first, second = ([(one.params, one.value) for one in trials(tmp_path / name)] for name in ("right", "nonsense"))
    assert first == second  # which also says that one process alone repeats itself


def test_bad_trials_are_pruned_and_more_trials_go_on_from_the_same_study(tmp_path):
    more = SPACE.model_copy(update={"trials": 20})
    fake = Fake(tmp_path / "runs")
    search.search("tried", SPACE, runs_of, tmp_path / "study", fake)
    search.search("tried", more, runs_of, tmp_path / "study", fake)
    states = [one.state.name for one in trials(tmp_path / "study")]
    assert len(states) == 20 and states.count("PRUNED") > 0
    assert len(fake.asked) < 20 * 3
    assert f"best of 20 ({states.count('PRUNED')} pruned)" in (tmp_path / "study" / "best.yaml").read_text()
    search.search("tried", more, runs_of, tmp_path / "study", fake)  # done: nothing is tried again
    assert len(trials(tmp_path / "study")) == 20


def test_another_range_is_another_study(tmp_path, capsys):
    search.search("tried", SPACE, runs_of, tmp_path, Fake(tmp_path / "runs"))
    other = SPACE.model_copy(update={"ranges": {"model.dropout": Range(low=0.0, high=0.5)}})
    search.search("tried", other, runs_of, tmp_path, Fake(tmp_path / "others"))
    printed = capsys.readouterr().out
    assert printed.count("8 of 8 trials done") == 2 and '"model.dropout"' in (tmp_path / "best.yaml").read_text()


def test_an_invalid_bound_is_reported_before_the_first_run(tmp_path):
    wrong = SPACE.model_copy(update={"ranges": {"model.dropout": Range(low=0.0, high=1.5)}})
    with pytest.raises(ValueError):
        search.search("tried", wrong, runs_of, tmp_path / "study", Fake(tmp_path / "runs"))
    assert not (tmp_path / "study").exists()


def test_training_that_diverges_is_a_bad_trial_and_not_the_end(tmp_path):
    fake = Fake(tmp_path / "runs")

    def diverge(settings):
        if settings.head.peak_lr > 0.003:
            raise ModelError("the loss became nan")
        return fake(settings)

    search.search("tried", SPACE, runs_of, tmp_path / "study", diverge)
    failed = [one for one in trials(tmp_path / "study") if "nan" in one.user_attrs.get("error", "")]
    assert failed and all(one.params["head.peak_lr"] > 0.003 for one in failed)

    def diverge_always(settings):
        raise ModelError("the loss became nan")

    with pytest.raises(ModelError, match=r"none of 8 trials.*nan"):
        search.search("tried", SPACE, runs_of, tmp_path / "none", diverge_always)


@needs_signals
def test_the_study_survives_a_killed_process(tmp_path):
    """Two processes share a study; one is killed within a run; the other ends with the number asked."""
    script = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_search import SPACE, Fake, runs_of, search\n"
        "here, n_until_stuck = Path(sys.argv[1]), int(sys.argv[2])\n"
        "fake = Fake(here / 'runs')\n"
        "def execute(settings):\n"
        "    if len(fake.asked) == n_until_stuck:\n"
        "        (here / 'stuck').touch(); time.sleep(600)\n"
        "    time.sleep(0.05)\n"
        "    return fake(settings)\n"
        "search.search('tried', SPACE, runs_of, here / 'study', execute)\n"
    )
    begin = [sys.executable, "-c", script, str(tmp_path)]
    victim = subprocess.Popen([*begin, "4"])
    survivor = subprocess.Popen([*begin, "-1"], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (tmp_path / "stuck").exists() or victim.poll() is not None)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    output, _ = survivor.communicate(timeout=HANGS_S)
    assert survivor.returncode == 0 and "8 of 8" in output
    states = [one.state.name for one in trials(tmp_path / "study")]
    assert states.count("COMPLETE") + states.count("PRUNED") == 8
    assert states.count("RUNNING") == 1  # the killed one, which counts for nothing
    assert (tmp_path / "study" / "best.yaml").is_file()


def test_settings_that_another_process_tries_are_left_to_it(tmp_path):
    fake, refused = Fake(tmp_path / "runs"), []

    def in_use_once(settings):
        if not refused:
            refused.append(settings)
            raise RunInUseError("in use by another process")
        return fake(settings)

    search.search("tried", SPACE, runs_of, tmp_path / "study", in_use_once)
    assert [one.state.name for one in trials(tmp_path / "study")].count("FAIL") == 1
    assert len(trials(tmp_path / "study")) == 9  # eight were done all the same


def test_a_real_search_of_frozen_heads(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "ResNet50", TINY)
    base = story_settings(tiny_tree, tmp_path, tune={"part": "none"}, head={"epochs": 2})
    space = Search.model_validate({"trials": 2, "ranges": {"head.peak_lr": {"low": 1e-4, "high": 1e-1, "log": True}}})

    def heads(values):
        head = base.head.model_copy(update={setting.split(".")[1]: value for setting, value in values.items()})
        return [base.model_copy(update={"head": head})]

    best = search.search("heads", space, heads, tmp_path / "study", lambda one: train.train_run(one, report=False))
    runs = sorted(path.parent.name for path in (tmp_path / "runs").glob("*/metrics.json"))
    assert len(runs) == 2
    found = config.load_config(best)
    again = train.train_run(found, report=False)  # fold 0 of the best setting is there already
    assert again.folder.name in runs and len(list((tmp_path / "runs").iterdir())) == 2
