"""Does a run survive being killed? Trains one small experiment undisturbed, then again and again under SIGKILL.

python scripts/soak.py [--minutes 10] [--out DIR]
Each round starts from nothing (index, pixel store, features, head, fine-tuning, predictions), is killed at random
moments until it ends by itself, and must leave the bytes of the undisturbed run. On synthetic tissue, all augmentations
on. Exit code 0: every round did; 1: one did not, and its folder is kept.
"""

from __future__ import annotations

import collections
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field

from breakhis_cls import config
from breakhis_cls.errors import ANSWER_IS_NO, DONE, RunError, exits_cleanly
from breakhis_cls.files import write_json, write_text
from breakhis_cls.modeling import network
from breakhis_cls.synthetic import tree

MIN_KILLS = 3  # fewer prove nothing


class Soak(config.Section):
    """How long, and where."""

    minutes: float = Field(10, ge=0)
    """A round that has begun is ended, and at least three kills are made."""
    seed: int = 0
    """Of the moments."""
    out: Path = Path("reports/soak")
    """soak.json: rounds, kills, and what stage each kill hit."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Soak, print the count of kills, and say whether every round ended in the same bytes."""
    asked = config.parse_arguments(Soak, argv, "soak", "Kill a small run at random moments and compare what it leaves.")
    moments, kills = random.Random(asked.seed), collections.Counter()
    rounds = different = 0
    with tempfile.TemporaryDirectory() as scratch:
        root = tree.write_tree(Path(scratch, "tree"), images_per_cell=1)
        started = time.monotonic()
        undisturbed = write_config(root, Path(scratch, "undisturbed"))
        _, span_s = run_until_done(undisturbed, None, moments)
        while kills.total() < MIN_KILLS or time.monotonic() - started < 60 * asked.minutes:
            folder = write_config(root, Path(scratch, f"round-{rounds}"))
            stages, last_s = run_until_done(folder, 1.2 * span_s, moments)
            kills.update(stages)
            if not stages:
                span_s = last_s  # a try that follows kills is no whole run
            equal = leave_equal_results(find_run(undisturbed), find_run(folder))
            rounds, different = rounds + 1, different + (not equal)
            if not equal:
                shutil.copytree(folder, asked.out / folder.name, dirs_exist_ok=True)
            shutil.rmtree(folder)
            verdict = "equal" if equal else "DIFFERENT"
            print(f"round {rounds}: {verdict}, {kills.total()} kills so far {dict(kills)}", file=sys.stderr, flush=True)
    result = {
        "rounds": rounds, "different": different, "kills": kills.total(), "kills_by_stage": dict(kills),
        "undisturbed_s": round(span_s, 1), "minutes": round((time.monotonic() - started) / 60, 1),
    }  # fmt: skip
    write_json(asked.out / "soak.json", result)
    print(json.dumps(result, indent=2))
    return ANSWER_IS_NO if different else DONE


def write_config(root: Path, folder: Path) -> Path:
    """Write into `folder`, which is returned, a config that passes every stage in seconds."""
    settings = {
        "data": {"root": str(root), "cache": str(folder / "cache"), "magnifications": [40, 200]},
        "image": {"height_px": 32, "width_px": 48},
        "model": {"weights": "random", "features": ["conv5"]},
        "head": {"kind": "keras", "epochs": 4, "batch_size": 8},
        "tune": {"part": "conv5", "epochs": 3, "batch_size": 8, "peak_lr": 1e-3},
        "augment": {"stain": 0.3},
        "run": {"dir": str(folder / "runs"), "reports": str(folder / "reports")},
    }
    write_text(folder / "soak.yaml", json.dumps(settings))  # JSON is YAML
    return folder


def run_until_done(folder: Path, within_s: float | None, moments: random.Random) -> tuple[list[str], float]:
    """Start, kill at a random moment, start again until it ends by itself. Stage of each kill; last try's seconds."""
    command = [sys.executable, "-m", "breakhis_cls.train", "--config", str(folder / "soak.yaml")]
    stages, log = [], folder / "train.log"
    while True:
        started = time.monotonic()
        try:
            with log.open("w") as written:
                # After a timeout `run` kills by SIGKILL.
                timeout = None if within_s is None else moments.uniform(0, within_s)
                code = subprocess.run(command, stdout=written, stderr=written, timeout=timeout, check=False).returncode
        except subprocess.TimeoutExpired:
            stages.append(find_stage(folder))
            continue
        if code != DONE:
            raise RunError(f"train ended with {code}, not {DONE}. The end of its log:\n{log.read_text()[-2000:]}")
        return stages, time.monotonic() - started


def find_run(folder: Path) -> Path:
    """The run's folder, or `folder` where it has none yet."""
    return next((folder / "runs").glob("soak-*"), folder)


def find_stage(folder: Path) -> str:
    """The last stage that has left something."""
    run = find_run(folder)
    signs = {
        "report": run / "metrics.json", "scoring": run / "predictions.csv",
        "after fine-tuning": run / "model.keras", "fine-tuning": run / "tune", "head": run / "head",
        "features": folder / "cache" / "features", "pixel store": run / "split.csv",
    }  # fmt: skip
    return next((stage for stage, path in signs.items() if path.exists()), "start and index")


def leave_equal_results(one: Path, other: Path) -> bool:
    """Equal bytes of predictions, equal weights, equal history except for its seconds."""
    predictions = [(run / "predictions.csv").read_bytes() for run in (one, other)]
    history = [pd.read_csv(run / "history.csv").drop(columns="seconds") for run in (one, other)]
    weights = [network.load_run_model(run).get_weights() for run in (one, other)]
    equal_weights = all(np.array_equal(a, b) for a, b in zip(*weights, strict=True))
    return predictions[0] == predictions[1] and history[0].equals(history[1]) and equal_weights


if __name__ == "__main__":
    sys.exit(main())
