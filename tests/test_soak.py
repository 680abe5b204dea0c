"""SIGKILL at random moments, again and again: what the deterministic kills of test_training.py cannot think of."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts/soak.py"


@pytest.mark.slow
def test_killed_at_random_moments_a_run_ends_in_the_same_bytes(tmp_path):
    command = [sys.executable, str(SCRIPT), "--minutes", "0", "--out", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    result = json.loads((tmp_path / "soak.json").read_text())
    assert result["kills"] >= 3 and result["different"] == 0
