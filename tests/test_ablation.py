"""The ablation, in small: arms differ only in the settings that they name, and are compared on validation rows."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from test_story import settings
from tiny_backbone import TINY

from breakhis_cls import config
from breakhis_cls.modeling import backbones

sys.path.append(str(Path(__file__).resolve().parents[1] / "scripts"))
import ablation


@pytest.mark.parametrize("arms", ["frozen", pytest.param("tuned", marks=pytest.mark.slow)])
def test_arms_change_what_they_name_and_are_compared_on_validation(arms, tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setitem(backbones.BACKBONES, "ResNet50", TINY)
    given = settings(tiny_tree, tmp_path, tune={"part": "none", "epochs": 1}, model={"features": ["conv4"]})
    (tmp_path / "story.yaml").write_text(config.dump_config(given))
    monkeypatch.setattr(ablation, "FROZEN", {"conv4": {}, "C 0.005": {"head.C": 0.005}})
    monkeypatch.setattr(ablation, "TUNED", {name: ablation.TUNED[name] for name in ("conv5", "conv5 tuned")})
    assert ablation.main(["--config", str(tmp_path / "story.yaml"), "--arms", arms]) == 0

    runs = [(path.parent, yaml.safe_load(path.read_text())) for path in tmp_path.glob("runs/*/config.yaml")]
    changed = {(run["head"]["C"], run["tune"]["part"], tuple(run["model"]["features"])) for _, run in runs}
    expected = {
        "frozen": {(0.05, "none", ("conv4",)), (0.005, "none", ("conv4",))},
        "tuned": {(0.05, "none", ("conv5",)), (0.05, "conv5", ("conv5",))},
    }
    assert changed == expected[arms] and len(runs) == 2 * 3

    (out,) = tmp_path.glob(f"reports/ablation-{arms}-*")
    table, differences = pd.read_csv(out / "arms.csv"), pd.read_csv(out / "differences.csv")
    log_loss = differences[differences["metric"] == "log_loss"].set_index("arm")["difference"]
    assert log_loss[table["arm"][1]] == pytest.approx(table["log_loss"][1] - table["log_loss"][0], abs=1e-9)
    assert (out / "ablation_roc_auc.png").is_file() and f"| {table['arm'][1]} |" in (out / "ablation.md").read_text()

    # Other labels in the test rows change nothing: they are not read.
    before = (out / "arms.csv").read_bytes()
    for folder, _ in runs:
        rows = pd.read_csv(folder / "predictions.csv", dtype=str)
        is_test = rows["part"] == "test"
        rows.loc[is_test, ["p_benign", "p_malignant"]] = rows.loc[is_test, ["p_malignant", "p_benign"]].to_numpy()
        rows.to_csv(folder / "predictions.csv", index=False)
    assert ablation.main(["--config", str(tmp_path / "story.yaml"), "--arms", arms]) == 0
    assert (out / "arms.csv").read_bytes() == before

    # The second arm is confirmed on the test rows, which now say the opposite.
    assert ablation.main(["--config", str(tmp_path / "story.yaml"), "--arms", arms, "--confirm", table["arm"][1]]) == 0
    assert (out / "arms.csv").read_bytes() == before
    confirmed = pd.read_csv(f"{out}-confirmed/arms.csv")
    assert list(confirmed["arm"]) == list(table["arm"]) and confirmed["roc_auc"][0] != table["roc_auc"][0]
    assert ablation.main(["--config", str(tmp_path / "story.yaml"), "--confirm", "none such"]) == 2


@pytest.mark.parametrize(
    ("p_holm", "expected"),
    [
        ([None], "difference +0.100, not tested"),
        ([0.2], "difference +0.100 (-0.100 to +0.300), not significant"),
        ([0.01, 0.2], "1 of 2 differences significant at 5 %"),
        ([], "undefined for these test images"),
    ],
)
def test_differences_say_what_is_significant(p_holm: list[float], expected: str) -> None:
    entries = [{"difference": 0.1, "low": -0.1, "high": 0.3, "detectable": 0.25, "p_holm": p} for p in p_holm]
    entries.append({"difference": None})
    figure = ablation.plot_differences(entries, ["B minus A"] * len(entries), "ROC AUC")
    assert expected in " ".join(figure.get_suptitle().split()) and len(figure.axes[0].get_yticks()) == len(p_holm)
