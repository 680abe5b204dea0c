"""The ablation, in small: arms differ only in the settings that they name, and are compared with the first."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_story import settings

from breakhis_cls import config

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import ablation

pytestmark = pytest.mark.slow  # trains two arms


@pytest.fixture(scope="module")
def written(tiny_tree, tmp_path_factory):
    """A config that already has what arms change, and the folder in which two arms of it were compared."""
    here = tmp_path_factory.mktemp("ablation")
    changes = {
        "model": {"features": ["conv4"]}, "tune": {"part": "conv4"},
        "head": {"epochs": 2}, "augment": {"test_views": 8},
    }  # fmt: skip
    given = settings(tiny_tree, here, split={"n_folds": 2}).model_dump()
    for section, values in changes.items():
        given[section] |= values
    (here / "story.yaml").write_text(config.dump_config(config.Config.model_validate(given)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablation, "SEEDS", range(1))
        patch.setattr(ablation, "TUNED", {"conv5 tuned": {"tune": {"part": "conv5", "epochs": 1}}})
        assert ablation.main(["--config", str(here / "story.yaml"), "--arms", "tuned"]) == 0
    return here


def test_an_arm_changes_what_it_names(written):
    made = [yaml.safe_load(path.read_text()) for path in written.glob("runs/*/config.yaml")]
    chosen = config.Config.model_validate
    arms = {(run.tune.part, run.model.features, run.augment.test_views) for run in map(chosen, made)}
    assert arms == {("none", ("conv5",), 1), ("conv5", ("conv5",), 1)} and len(made) == 2 * 2
    assert {run.head.epochs for run in map(chosen, made)} == {2}


def test_every_arm_is_compared_with_the_first(written):
    (out,) = written.glob("reports/ablation-tuned-*")
    arms, differences = pd.read_csv(out / "arms.csv"), pd.read_csv(out / "differences.csv")
    assert list(arms["arm"]) == ["conv5", "conv5 tuned", "conv5 tuned, 8 at test"]
    log_loss = differences[differences["metric"] == "log_loss"].set_index("arm")
    for arm, value in zip(arms["arm"][1:], arms["log_loss"][1:], strict=True):
        assert log_loss["difference"][arm] == pytest.approx(value - arms["log_loss"][0], abs=1e-9)
        assert log_loss["low"][arm] <= log_loss["difference"][arm] <= log_loss["high"][arm]
    text = (out / "ablation.md").read_text()
    assert all(f"| {arm} |" in text for arm in arms["arm"]) and (out / "ablation_roc_auc.png").is_file()
