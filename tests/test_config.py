"""Settings: what YAML files and the command line may contain, and the errors about what they may not."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from breakhis_cls import __main__ as breakhis
from breakhis_cls import config, download
from breakhis_cls.config import Config
from breakhis_cls.errors import BAD_INPUT, ConfigError
from breakhis_cls.sweeping import plan

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted(ROOT.glob("configs/**/*.yaml"))


def _parse(*argv):
    return config.parse_settings(Config, list(argv), "test", "Test.")


def _yaml(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_the_command_line_overrides_yaml_and_yaml_the_defaults(tmp_path):
    path = _yaml(tmp_path, "head: {epochs: 7, peak_lr: 1e-3}\nsplit: {fold: 1}\n")
    settings = _parse("--config", str(path), "--split.fold", "2", "--data.magnifications", "40", "200")
    assert (settings.head.epochs, settings.split.fold, settings.name) == (7, 2, "mine")
    assert settings.head.peak_lr == 1e-3  # YAML 1.1 reads it as text
    assert settings.data.magnifications == (40, 200)
    assert settings.head.batch_size == Config().head.batch_size


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid_and_its_header_gives_the_command(path):
    is_sweep = path.parent.name == "sweeps"
    assert plan.expand_runs(plan.read_sweep(path), {}) if is_sweep else config.load_config(path)
    command = f"breakhis {'sweep' if is_sweep else 'train'} --config {path.stem}"
    assert re.search(rf"^# .*{command}$", path.read_text(), re.MULTILINE)
    assert not re.search("# .* (True|False)", path.read_text())


def test_the_wheel_contains_the_configs():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["force-include"] == {"configs": "breakhis_cls/configs"}


@pytest.mark.parametrize(
    "name", ["binary_200x", "binary_200x.yaml", "configs/binary_200x.yaml", "configs/binary_200x"]
)  # fmt: skip
def test_a_shipped_config_is_found_by_name_from_any_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert config.load_config(name) == config.load_config(ROOT / "configs/binary_200x.yaml")


@pytest.mark.parametrize("name", ["protocol_case", "configs/protocol_case.yaml", "configs/sweeps/protocol_case.yaml"])
def test_a_shipped_sweep_is_found_by_name_and_by_its_old_path(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert len(plan.expand_runs(plan.read_sweep(Path(name)), {})) == 5


def test_a_file_of_the_user_comes_before_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary_200x.yaml").write_text("split: {fold: 3}")
    assert config.load_config("binary_200x").split.fold == 3


@pytest.mark.parametrize("name", [str(ROOT / "configs" / "binary_200.yaml"), "binary_200"])
def test_a_missing_config_names_the_nearest(name):
    with pytest.raises(ConfigError, match="did you mean binary_200x"):
        config.load_config(name)


def test_dumped_settings_load_to_an_equal_value(tmp_path):
    settings = _parse("--split.seed", "3", "--run.no_deterministic", "--model.features", "conv4", "conv5")
    assert config.load_config(_yaml(tmp_path, config.dump_config(settings))) == settings


def test_a_switch_takes_no_value_and_can_be_switched_off():
    switched = _parse("--split.allow_leaks", "--run.no_deterministic")
    assert switched.split.allow_leaks and not switched.run.deterministic
    assert _parse("--split.no_allow_leaks") == Config()
    with pytest.raises(ConfigError, match="'True' is not expected there"):
        _parse("--split.allow_leaks", "True")


def test_a_spelling_with_other_hyphens_is_told_the_right_one():
    given = config.parse_settings(download.Settings, ["--from-zip=a.zip"], "test", "")
    assert given.from_zip == Path("a.zip")
    with pytest.raises(ConfigError, match=r"'from_zip'; did you mean 'from-zip'"):
        config.parse_settings(download.Settings, ["--from_zip", "a.zip"], "test", "")
    with pytest.raises(ConfigError, match=r"'head.batch-size'; did you mean 'head.batch_size'"):
        _parse("--head.batch-size=8")


def test_none_switches_a_setting_off(tmp_path):
    path = _yaml(tmp_path, "split: {seed: 3}")
    assert _parse("--config", str(path), "--split.seed", "None").split.seed is None


@pytest.mark.parametrize("name", ["protocol_case", "search_head"])
def test_a_sweep_given_to_train_and_a_run_given_to_sweep_name_the_other_command(name, capsys):
    assert breakhis.main(["train", "--config", name]) == BAD_INPUT
    assert f"is a sweep: breakhis sweep --config {config.find_config(name)}\n" in capsys.readouterr().err
    assert breakhis.main(["sweep", "--config", "demo"]) == BAD_INPUT
    assert f"is one run and no sweep: breakhis train --config {config.find_config('demo')}\n" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "key"), [
    ("head: {epochs: 5}\ntune: {part: none}\nhead: {peak_lr: 0.1}\n", "head"),
    ("head:\n  epochs: 5\n  peak_lr: 0.1\n  epochs: 6\n", "epochs"), ('split: {fold: 1, "fold": 2}', "fold"),
])  # fmt: skip
def test_a_yaml_key_given_twice_is_refused(tmp_path, text, key):
    with pytest.raises(ConfigError, match=f"{key} is given twice in one mapping"):
        config.load_config(_yaml(tmp_path, text))


@pytest.mark.parametrize(("text", "said"), [
    ("run: {seed: -1}", "run.seed is -1"), ("run: {seed: 4294967296}", "run.seed is 4294967296"),
    ("split: {seed: -1}", "split.seed is -1"), ("model: {features: []}", "model.features is"),
    ("head: {kind: keras, epochs: 0}", "nothing would be trained"),
    ("head: {kind: keras, peak_lr: 0}", "nothing would be trained"),
])  # fmt: skip
def test_settings_that_cannot_train_are_refused_when_they_are_read(tmp_path, text, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        config.load_config(_yaml(tmp_path, text))


@pytest.mark.parametrize("text", ["axes: {split.fold: [0], split.fold: [1]}", "set: {a: 1}\nset: {b: 2}"])
def test_a_key_given_twice_in_a_sweep_is_refused(tmp_path, text):
    with pytest.raises(ConfigError, match="is given twice in one mapping"):
        plan.read_sweep(_yaml(tmp_path, text))


def test_yaml_saved_by_an_editor_with_a_mark_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_bytes("head: {epochs: 7}".encode("utf-8-sig"))
    assert config.load_config(tmp_path / "mine.yaml").head.epochs == 7


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = {"data.root": "~/d", "data.cache": "~/c", "split.protocol": "~/s.csv", "model.weights": "~/w.weights.h5",
             "run.dir": "~/r", "run.reports": "~/reports"}  # fmt: skip
    nested = {section: {} for section in ("data", "split", "model", "run")}
    for name, value in paths.items():
        nested[name.partition(".")[0]][name.partition(".")[2]] = value
    _yaml(tmp_path, yaml.safe_dump(nested))
    for settings in (
        config.load_config("~/mine.yaml"),
        _parse(*(word for name, value in paths.items() for word in (f"--{name}", value))),
    ):
        for name, value in paths.items():
            section, _, key = name.partition(".")
            assert str(getattr(getattr(settings, section), key)) == str(tmp_path / value[2:])
    assert config.Data(root="~nobody-of-this-name/x").root == "~nobody-of-this-name/x"


@pytest.mark.parametrize(
    "name", ["/tmp/abs", "../up", "a/b", "a\\b", "", ".", ".hidden", "x" * 200, "a\nb", "a:b", "why?"]
)
def test_a_name_does_not_leave_the_folder_of_runs(tmp_path, name):
    with pytest.raises(ConfigError, match=r"cannot name a folder within run\.dir"):
        config.load_config(_yaml(tmp_path, yaml.safe_dump({"name": name})))
    with pytest.raises(ConfigError, match=r"cannot name a folder within run\.dir"):
        plan.read_sweep(_yaml(tmp_path, yaml.safe_dump({"name": name})))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("head: {epoch: 7}", "unknown setting 'head.epoch'; did you mean 'head.epochs'"),
        ("epochs: 7", "did you mean 'head.epochs'"),
        ("head: {epochs: many}", "head.epochs is many"),
        ("data: {magnifications: [50]}", "data.magnifications is 50"),
        ("split: {fold: -1}", "split.fold is -1"),
        ("tune: {part: conv5}", "mine.yaml: tune.part conv5 trains blocks that model.features does not use"),
        ("head: {epochs: 0}", "nothing would be trained"),
        ("model: {features: []}", "model.features is []"),
        ("head: {C: 0}", "head.C is 0"),
        ("head: [", "not readable YAML"),
        ("- 1", "holds a list"),
    ],
)
def test_invalid_yaml_gives_one_sentence(tmp_path, text, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        config.load_config(_yaml(tmp_path, text))


@pytest.mark.parametrize(("name", "value", "message"), [
    ("split.folt", "3", "unknown setting 'split.folt'; did you mean 'split.fold'?"),
    ("epochs", "3", "unknown setting 'epochs'; did you mean 'head.epochs'?"),
    ("head.epochs", "-1", "head.epochs is -1; expected a number greater than or equal to 0"),
    ("head.epochs", "many", "head.epochs is many; expected a valid integer"),
    ("tune.part", "conv3", "tune.part is conv3; expected 'none', 'conv5', 'conv4' or 'all'"),
    ("tune.part", "conv5", "tune.part conv5 trains blocks that model.features does not use; set"),
])  # fmt: skip
def test_the_command_line_and_a_yaml_give_the_same_sentence(tmp_path, name, value, message, capsys):
    section, _, key = name.rpartition(".")
    content = {key: yaml.safe_load(value)}
    path = _yaml(tmp_path, yaml.safe_dump({section: content} if section else content))
    for source, options in (("the command line", [f"--{name}", value]), (str(path), ["--config", str(path)])):
        assert breakhis.main(["train", *options]) == BAD_INPUT
        printed = capsys.readouterr().err
        assert printed.startswith(f"error: {source}: {message}") and printed.count("\n") == 1
        assert "pydantic" not in printed


@pytest.mark.parametrize(("argv", "message"), [
    (["--head.epochs"], "argument --head.epochs: expected one argument; `test --help` shows how"),
    (["--data.magnifications", "50", "40"], "data.magnifications is 50; expected 40, 100, 200 or 400"),
    (["stray"], "'stray' is not expected there"),
])  # fmt: skip
def test_an_option_that_cannot_be_read_is_one_sentence(argv, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        _parse(*argv)


def test_the_config_of_an_earlier_run_is_read_without_what_was_removed(tmp_path):
    (tmp_path / "config.yaml").write_text(
        "name: old\nhead: {views: 8, epochs: 3}\naugment: {contrast: 0.0, test_views: 8}\nimage: {stains: as_is}"
    )
    assert config.load_config(tmp_path / "config.yaml") == Config(name="old", head=config.Head(epochs=3))
    (tmp_path / "config.yaml").write_text("image: {stains: macenko}")
    with pytest.raises(ConfigError, match=r"unknown setting 'image.stains'"):  # its images were prepared otherwise
        config.load_config(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"unknown setting 'head.views'"):
        config.load_config(_yaml(tmp_path, "head: {views: 8}"))


def test_settings_are_frozen_and_changed_in_a_copy():
    with pytest.raises(Exception, match="frozen"):
        Config().head.epochs = 3
    changed = config.change_settings(Config(), {"split.fold": 2, "name": "mine"})
    assert (changed.split.fold, changed.name, changed.head) == (2, "mine", Config().head)
    with pytest.raises(ConfigError, match=r"did you mean 'split\.fold'"):
        config.change_settings(Config(), {"split.folt": 2})


def test_settings_without_paths_are_equal_wherever_the_data_are():
    moved = config.change_settings(Config(), {"data.root": "/elsewhere", "run.dir": "/runs", "name": "other"})
    assert config.settings_without(moved, config.PLACES) == config.settings_without(Config(), config.PLACES)
    assert config.settings_without(moved, ()) != config.settings_without(Config(), ())


def test_every_setting_is_explained_and_nothing_else():
    meanings = yaml.safe_load(config.MEANINGS.read_text())
    sections = {name: texts for name, texts in meanings.items() if isinstance(texts, dict) and name != "phase"}
    explained = {f"{section}.{key}" for section, texts in sections.items() for key in texts} | {"name"}
    assert explained == set(config.list_settings(Config))


def test_help_is_short_and_shows_the_defaults_of_the_chosen_yaml(capsys, tmp_path):
    path = _yaml(tmp_path, "split: {fold: 3, allow_leaks: true}\nhead: {epochs: 4321}")
    shown = {}
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            _parse("--config", str(path), option)
        shown[option] = capsys.readouterr().out
    settings = {name: re.findall(r"^  (--[\w.]+)", text, re.MULTILINE) for name, text in shown.items()}
    assert settings["--help"] == ["--config", *(f"--{name}" for name in config.COMMON)]
    assert len(settings["--help-all"]) == 1 + len(config.list_settings(Config))
    assert "(default: 3)" in shown["--help"] and "(default: 4321)" in shown["--help-all"]
    assert re.search(r"--head.shots N [^-]*\(default: 0\)", shown["--help-all"])
    assert "--split.no_allow_leaks" in shown["--help-all"]  # what changes the default
    assert "True" not in "".join(shown.values())
