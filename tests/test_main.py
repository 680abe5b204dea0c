"""The `breakhis` program: quick to start, and nothing heavy is imported before it is needed."""

import errno
import os
import re
import subprocess
import sys

import pytest
from conftest import needs_signals
from test_predictions import made

from breakhis_cls import errors, train
from breakhis_cls.__main__ import COMMANDS, main

HEAVY = {"tensorflow", "keras", "kaggle", "matplotlib", "ray", "optuna"}


def _run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_tensorflow(command):
    done = _run_python(
        "import sys; from breakhis_cls.__main__ import main\n"
        f"try: main(['{command}', '--help'])\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr
    assert "--" in done.stdout


def test_the_list_of_commands_imports_neither_numpy_nor_pydantic(capsys):
    done = _run_python(
        "import sys; from breakhis_cls.__main__ import main; main([])\n"
        "assert not {'numpy', 'pandas', 'pydantic', 'argparse'} & set(sys.modules)"
    )
    assert done.returncode == 0 and all(command in done.stdout for command in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [
    "ENOSYS", "ENOTSUP", "ENOLCK", "EPERM", "EEXIST", "ENOTDIR", "EISDIR", "EIO", "ENOENT", None,
])  # fmt: skip
def test_every_error_of_a_disk_is_a_sentence(number, capsys):
    @errors.exits_cleanly
    def main() -> int:
        raise OSError(getattr(errno, number), "it failed", "/some\udce9/file") if number else OSError("it failed")

    assert main() == errors.BAD_INPUT
    printed = capsys.readouterr().err
    what = os.strerror(getattr(errno, number)) if number else "it failed"
    assert printed.startswith("error: ") and f"{what}; " in printed and printed.count("\n") == 1


@pytest.mark.parametrize("command", ["audit", "evaluate", "predict", "explain", "train"])
def test_an_out_that_is_a_file_is_refused_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = ["--run.reports" if command == "train" else "--out", str(tmp_path / "file/in")]
    made().to_csv(tmp_path / "predictions.csv", index=False)
    argv = {"evaluate": [str(tmp_path)], "predict": ["run", "image.png"], "explain": ["run"]}.get(command, [])
    assert main([command, *argv, *out]) == errors.BAD_INPUT
    assert re.search(r"file is a file; choose another with --(out|run\.reports)", capsys.readouterr().err)


@pytest.mark.parametrize("setting", ["data.cache", "run.dir"])
def test_a_folder_that_is_a_file_is_named(setting, tiny_tree, tmp_path, capsys):
    (tmp_path / "file").touch()
    places = {"data.root": tiny_tree, "data.cache": tmp_path / "cache", setting: tmp_path / "file"}
    argv = [word for name, value in places.items() for word in (f"--{name}", str(value))]
    assert main(["train", *argv, "--model.weights", "random", "--image.height_px", "32"]) == errors.BAD_INPUT
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {tmp_path / 'file'}") and "no file in its place" in error


def test_a_container_without_git_is_a_warning(monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    assert train._git_commit() is None
    assert "commit is not recorded" in capsys.readouterr().err


@needs_signals
def test_a_full_disk_and_sigterm_end_with_one_sentence():
    """Clusters send SIGTERM before they kill: the command ends as after Ctrl-C."""
    full = _run_python(
        "import errno, sys; from breakhis_cls.errors import exits_cleanly\n"
        "@exits_cleanly\ndef main(): raise OSError(errno.ENOSPC, 'full', '/somewhere/file')\n"
        "sys.exit(main())"
    )
    assert full.returncode == 2
    assert full.stderr.startswith("error: /somewhere/file: No space left") and "free some space" in full.stderr
    program = (
        "import sys, time; from breakhis_cls.errors import exits_cleanly\n"
        "@exits_cleanly\ndef main():\n    print('ready', flush=True); time.sleep(600)\n"
        "sys.exit(main())"
    )
    waiting = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert waiting.stdout is not None and waiting.stdout.readline() == b"ready\n"
    waiting.terminate()
    _, messages = waiting.communicate()
    assert waiting.returncode == 130 and messages.startswith(b"interrupted;") and b"Traceback" not in messages
