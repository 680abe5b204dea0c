"""Settings: what YAML and command line may say, and what is told when they say it wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from breakhis_cls import config
from breakhis_cls.config import Config
from breakhis_cls.errors import ConfigError
from breakhis_cls.sweeping import plan

CONFIGS = sorted(Path(__file__).resolve().parents[1].glob("configs/*.yaml"))


def _parse(*argv):
    return config.parse_settings(Config, list(argv), "test", "Test.")


def _yaml(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_yaml_then_command_line(tmp_path):
    path = _yaml(tmp_path, "head: {epochs: 7, peak_lr: 1e-3}\nsplit: {fold: 1}\n")
    settings = _parse("--config", str(path), "--split.fold", "2", "--data.magnifications", "40", "200")
    assert (settings.head.epochs, settings.split.fold, settings.name) == (7, 2, "mine")
    assert settings.head.peak_lr == 1e-3  # YAML 1.1 reads it as text
    assert settings.data.magnifications == (40, 200)
    assert settings.head.batch_size == Config().head.batch_size


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_that_ships_is_valid_and_names_its_command(path):
    is_sweep = re.search(r"^(base|set|axes|search):", path.read_text(), re.MULTILINE)
    assert plan.expand_runs(plan.read_sweep(path), {}) if is_sweep else config.load_config(path)
    command = "sweep" if is_sweep else "train"
    assert re.search(rf"make demo|breakhis(_cls\.| ){command} --config configs/{path.name}", path.read_text())


def test_resolved_settings_read_back_equal(tmp_path):
    settings = _parse("--split.seed", "3", "--run.deterministic", "False", "--model.features", "conv4", "conv5")
    assert config.load_config(_yaml(tmp_path, config.dump_config(settings))) == settings


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("head: {epoch: 7}", "unknown setting 'head.epoch'; did you mean 'head.epochs'"),
        ("epochs: 7", "did you mean 'head.epochs'"),
        ("head: {epochs: many}", "head.epochs is 'many'"),
        ("data: {magnifications: [50]}", "data.magnifications.0 is 50"),
        ("split: {fold: -1}", "split.fold is -1"),
        ("head: [", "not readable YAML"),
        ("- 1", "holds a list"),
    ],
)
def test_wrong_yaml_is_told_in_one_sentence(tmp_path, text, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        config.load_config(_yaml(tmp_path, text))


def test_a_config_that_is_not_there_names_its_neighbour():
    with pytest.raises(ConfigError, match=r"did you mean .*binary_200x\.yaml"):
        config.load_config(CONFIGS[0].with_name("binary_200.yaml"))


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--split.folt", "3"], "--split.fold"),
        (["--head.epochs", "-1"], "greater than or equal to 0"),
        (["--data.magnifications", "50"], "50"),
    ],
)
def test_wrong_options_exit_with_2_and_one_screen(argv, told, capsys):
    with pytest.raises(SystemExit) as stopped:
        _parse(*argv)
    printed = capsys.readouterr()
    assert stopped.value.code == 2
    assert told in printed.out + printed.err
    assert len((printed.out + printed.err).splitlines()) < 24


def test_settings_are_frozen():
    with pytest.raises(Exception, match="frozen"):
        Config().head.epochs = 3


@pytest.mark.parametrize("command", ["download", "audit", "train", "sweep", "evaluate", "predict"])
def test_help_answers_without_tensorflow(command):
    code = (
        "import sys; from breakhis_cls.__main__ import main\n"
        f"try: main(['{command}', '--help'])\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "heavy = {'tensorflow', 'keras', 'kaggle', 'matplotlib', 'ray', 'optuna'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "--" in answer.stdout


def test_help_shows_the_defaults_of_the_chosen_yaml(capsys, tmp_path):
    path = _yaml(tmp_path, "head: {epochs: 4321}")
    with pytest.raises(SystemExit):
        _parse("--config", str(path), "--help")
    assert "(default: 4321)" in capsys.readouterr().out


def test_an_unknown_command_names_its_neighbour(capsys):
    from breakhis_cls.__main__ import main

    assert main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
    assert main([]) == 0
