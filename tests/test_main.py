"""The `breakhis` program and the library: quick to start, and nothing heavy is imported before it is needed."""

import subprocess
import sys

import pytest

import breakhis_cls
from breakhis_cls.__main__ import COMMANDS, main

HEAVY = {"tensorflow", "keras", "kaggle", "matplotlib", "ray", "optuna"}


def _run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_importing_the_library_imports_nothing_heavy():
    done = _run_python(
        "import sys, breakhis_cls\n"
        f"heavy = {HEAVY | {'pandas', 'numpy', 'pydantic'}} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "breakhis_cls.load_config, breakhis_cls.evaluate_runs\n"
        f"heavy = {HEAVY} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_every_name_of_the_library_is_there():
    for name in ("load_config", "load_dataset", "train_run", "evaluate_runs", "predict_images", "audit_split"):
        assert callable(getattr(breakhis_cls, name))
    with pytest.raises(AttributeError, match="no attribute 'train_runs'"):
        _ = breakhis_cls.train_runs


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
        "assert not {'numpy', 'pandas', 'pydantic', 'tyro'} & set(sys.modules)"
    )
    assert done.returncode == 0 and all(command in done.stdout for command in COMMANDS)


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


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
