"""Settings: one frozen type, with every default in this file. A YAML file changes some, the command line wins.

settings.yaml says what each setting means, for readers and for `--help-all`. A command's own options have docstrings.
"""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from .errors import ConfigError

MAX_NAME = 150  # bytes; file systems allow 255, and fold, seed and hash follow


def _check_name(name: str) -> str:
    # No system's separators, and none of what Windows allows in no name.
    if not re.fullmatch(r"(?![.\s])[^/\\<>:\"|?*\x00-\x1f]+", name) or len(os.fsencode(name)) > MAX_NAME:
        raise ValueError(f"{name!r} cannot name a folder within run.dir; use a short word of letters, digits, - and _")
    return name


Name = Annotated[str, AfterValidator(_check_name)]
Magnification = Annotated[Literal[40, 100, 200, 400], BeforeValidator(lambda x: int(x) if str(x).isdigit() else x)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what NumPy and Keras take
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Quantile = Annotated[float, Field(gt=0, le=1)]
REFUSE_BEYOND: Quantile = 0.99  # of the distances of training images to other cases (docs/refusal.md)
# A shell expands ~ only where it begins a word, and YAML not at all; of a user that does not exist it stays.
UserText = Annotated[str, AfterValidator(os.path.expanduser)]
UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]  # noqa: PTH111 (Path's raises then)


class Section(BaseModel):
    """Frozen settings; an unknown key raises."""

    # extra="forbid": a misspelled setting must not silently leave its default in force
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


# --- images ---


class Data(Section):
    """Which images are used."""

    root: UserText = "data/breakhis"
    cache: UserPath = Path("data/cache")
    magnifications: tuple[Magnification, ...] = (40, 100, 200, 400)
    task: Literal["binary", "subtype"] = "binary"
    duplicates: Literal["auto", "keep", "first", "drop"] = "auto"
    skip_broken: bool = False
    balance: Literal["none", "images", "class_weights"] = "none"


class Split(Section):
    """Which images are for training, validation and test."""

    protocol: UserText = "case"
    fold: Count = 0
    n_folds: Annotated[int, Field(ge=2, le=16)] = 5  # 16: some four of the 70 cases in each
    seed: Seed | None = None
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    allow_leaks: bool = False


class Image(Section):
    """Input images of the network."""

    height_px: PositiveInt = 230
    width_px: PositiveInt = 350
    fit: Literal["stretch", "crop", "pad"] = "stretch"


# --- model and training ---


class Model(Section):
    """Backbone and initial weights."""

    backbone: Literal["ResNet50", "DenseNet121", "EfficientNetV2B0", "ConvNeXtTiny"] = "ResNet50"
    weights: UserText = "imagenet"
    features: Annotated[tuple[Literal["conv3", "conv4", "conv5"], ...], Field(min_length=1)] = ("conv4",)
    dropout: Fraction = 0.2


class Features(Section):
    """Embeddings that were computed elsewhere, in place of the backbone's features."""

    source: UserText = ""
    encoder: str = ""


class Phase(Section):
    """One phase of training."""

    epochs: Count
    peak_lr: Amount
    batch_size: PositiveInt
    weight_decay: Amount = 1e-4  # https://arxiv.org/abs/1711.05101
    warmup_share: Fraction = 0.1
    patience: PositiveInt = 10
    label_smoothing: Fraction = 0.0  # https://arxiv.org/abs/1906.02629


class Head(Phase):
    """Phase 1: the last layer on a frozen backbone, whose features are computed once and cached."""

    kind: Literal["logistic", "keras", "knn", "prototype"] = "logistic"
    C: Annotated[float, Field(gt=0)] = 0.05
    shots: Count = 0
    epochs: Count = 40
    peak_lr: Amount = 2e-3
    batch_size: PositiveInt = 64
    weight_decay: Amount = 0.0  # head.C is the penalty


class Tune(Phase):
    """Phase 2: fine-tuning of a part of the backbone. BatchNorm stays frozen unless the weights are random."""

    part: Literal["none", "conv5", "conv4", "all"] = "none"
    epochs: Count = 5
    peak_lr: Amount = 3e-5
    batch_size: PositiveInt = 16
    patience: PositiveInt = 3


class Augment(Section):
    """Random augmentation of training images; a function of (seed, epoch, row)."""

    flips: bool = True
    turns: bool = True
    stain: Fraction = 0.0


# --- runs ---


class Run(Section):
    """Output folders and repeatability."""

    dir: UserPath = Path("runs")
    reports: UserPath = Path("reports")
    seed: Seed = 0
    deterministic: bool = True
    save_model: bool = True
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    extraction_precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Config(Section):
    """All settings of one run."""

    name: Name = "run"
    data: Data = Data()
    split: Split = Split()
    image: Image = Image()
    model: Model = Model()
    features: Features = Features()
    head: Head = Head()
    tune: Tune = Tune()
    augment: Augment = Augment()
    run: Run = Run()

    @property
    def fine_tunes(self) -> bool:
        """Whether a part of the backbone is trained; otherwise only its head is fitted."""
        return self.tune.part != "none" and self.tune.epochs > 0

    # Otherwise the error would come only after the features of all images are extracted.
    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        head, tune, is_probe = self.head, self.tune, self.head.kind in ("knn", "prototype")
        trained = {"conv5": {"conv5"}, "conv4": {"conv4", "conv5"}}.get(tune.part)
        fits_head = head.epochs and (head.kind != "keras" or head.peak_lr)
        for is_wrong, message in (
            (self.fine_tunes and trained and not trained & set(self.model.features),
             f"tune.part {tune.part} trains blocks that model.features does not use; "
             f"set tune.part to none, or add {tune.part} to model.features"),
            (self.features.source and self.fine_tunes,
             "features.source has one embedding an image and no pixels; set tune.part to none"),
            (self.fine_tunes and is_probe, f"head.kind {head.kind} cannot be fine-tuned; set tune.part to none"),
            (head.shots and head.kind != "prototype",
             f"head.shots counts for head.kind prototype, not {head.kind}; leave it out"),
            (not fits_head and not (self.fine_tunes and tune.peak_lr),
             "nothing would be trained: head.epochs or head.peak_lr is 0 and no part of the backbone is fine-tuned"),
        ):  # fmt: skip
            if is_wrong:
                raise ValueError(message)
        return self


# --- files and command line -> settings ---

S = TypeVar("S", bound=BaseModel)

# The configs that ship: inside a wheel, or at the top of a checkout.
SHIPPED = [path / "configs" for path in Path(__file__).parents[:2] if (path / "configs").is_dir()]
# Settings that do not change a result: paths, and what a run's name covers by content (the hash of weights and split).
PLACES = (
    "name", "data.root", "data.cache", "model.weights", "features.source", "split.protocol", "run.dir", "run.reports",
    "run.save_model",
)  # fmt: skip
MEANINGS = Path(__file__).with_name("settings.yaml")
# Settings that were removed; runs that have them are still scored.
RETIRED = (
    "image.stains", "head.views", "head.clip_norm", "head.ema", "head.accumulate", "tune.clip_norm", "tune.ema",
    "tune.accumulate", "augment.brightness", "augment.contrast", "augment.scale", "augment.test_views",
)  # fmt: skip


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key is given once: of two equal ones PyYAML drops the first in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := sorted({str(key) for key in keys if keys.count(key) > 1}):
            where = f"line {node.start_mark.line + 1}"
            raise yaml.YAMLError(f"{', '.join(twice)} is given twice in one mapping ({where}); join them")
        return super().construct_mapping(node, deep)


def find_config(path: Path | str) -> Path:
    """Path of the YAML file that `--config` names: a file, a run's folder, or the name of a config that ships, also as
    its path within a checkout (`configs/protocol_case.yaml`, too). ConfigError if there is none."""
    path = Path(path).expanduser()
    name = path.name.removesuffix(".yaml")
    for file in (path, path / "config.yaml", path.with_name(f"{name}.yaml")):
        if file.is_file():
            return file
    known = {file.stem: file for folder in SHIPPED for file in folder.rglob("[!.]*.yaml")}
    if name in known and set(path.parent.parts) <= {"configs", "sweeps"}:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"configs that ship: {', '.join(sorted(known))}"
    raise ConfigError(f"no such config: {path}; {hint}")


def load_config(path: Path | str, kind: type[S] = Config, /, **changes: Any) -> S:
    """Settings from a YAML file, or from a config that ships, such as `demo`; what it does not name keeps its default.
    changes: settings that win over the file, by their dotted names: `load_config("demo", **{"split.fold": 2})`. Raises
    ConfigError if the file is not YAML, or if a setting is unknown or invalid."""
    file = find_config(path)
    try:
        # PyYAML reads 1e-3 as text, because YAML 1.1 wants 1.0e-3; pydantic turns it into a number.
        content = yaml.load(file.read_bytes(), _UniqueKeys) or {}  # as safe as safe_load; bytes may have a BOM
    except (yaml.YAMLError, OSError) as error:
        raise ConfigError(f"{file} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds a {type(content).__name__}; expected sections such as 'data:' and 'split:'")
    is_sweep = "axes" in kind.model_fields
    if not is_sweep and {"axes", "search", "base", "set"} & set(content):
        raise ConfigError(f"{file} is a sweep: breakhis sweep --config {file}")
    if is_sweep and set(Config.model_fields) - {"name"} & set(content):
        raise ConfigError(f"{file} is one run and no sweep: breakhis train --config {file}")
    if "name" in kind.model_fields:
        content.setdefault("name", file.stem)
    for name in RETIRED if file.name == "config.yaml" else ():
        section, _, key = name.partition(".")
        # Images that were normalised before would be predicted without it now, so that setting is refused.
        if isinstance(content.get(section), dict) and content[section].get(key) != "macenko":
            content[section].pop(key, None)
    settings = validate_settings(kind, content, str(file))
    return change_settings(settings, changes, f"{path} with changes") if changes else settings


def dump_config(settings: BaseModel) -> str:
    """Settings as YAML text; `load_config` returns an equal value from it."""
    # mode="json": YAML has no paths and tuples. The sections keep the order of this file.
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def change_settings(settings: S, values: Mapping[str, Any], source: str = "settings") -> S:
    """A validated copy with some settings changed, such as `{"split.fold": 2}`. ConfigError names each invalid one."""
    content = settings.model_dump(by_alias=True)  # and not model_copy, which validates nothing
    for name, value in values.items():
        section, _, key = name.partition(".")
        if key and isinstance(content.get(section), dict):
            content[section][key] = value
        else:
            content[name] = value  # an unknown section stays in the name, by which the nearest known one is found
    return validate_settings(type(settings), content, source)


def settings_without(settings: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """Settings as JSON-able values, without those of some dotted names; for comparing, hashing and printing."""
    content = settings.model_dump(mode="json")
    for name in names:
        section, _, key = name.rpartition(".")
        (content.get(section, {}) if section else content).pop(key, None)
    return content


def list_settings(kind: type[BaseModel]) -> dict[str, FieldInfo]:
    """Every setting of a type of settings by its dotted name."""
    found = {}
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= {f"{name}.{key}": each for key, each in list_settings(field.annotation).items()}
        else:
            found[field.alias or name] = field
    return found


def validate_settings(kind: type[S], content: dict[str, Any], source: str) -> S:
    """Settings from nested names and values. The ConfigError begins with `source` and names each invalid setting."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = error.errors()
    lines = []
    for problem in problems:
        name = ".".join(part for part in problem["loc"] if isinstance(part, str))  # and not the place in a list
        if problem["type"] == "extra_forbidden":
            lines.append(_unknown(name, list(list_settings(kind))))
        elif problem["type"] == "value_error":  # a contradiction between settings
            lines.append(problem["msg"].removeprefix("Value error, "))
        else:
            expected = problem["msg"].partition(", unable")[0].replace("Input should be ", "expected ")
            expected = re.sub("(?=greater than|less than)", "a number ", expected, count=1)
            lines.append(f"{name} is {problem.get('input')}; {expected[0].lower()}{expected[1:]}")
    raise ConfigError(f"{source}: " + "\n  ".join(lines))


def _unknown(name: str, known: list[str]) -> str:
    # `epochs` alone probably means head.epochs; otherwise suggest the nearest spelling.
    near = [key for key in known if key.endswith(f".{name.rpartition('.')[2]}")]
    near = near or difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "`breakhis train --help-all` lists all settings"
    return f"unknown setting '{name}'; {hint}"


# --- the command line: `--name value ...`, switches, and positional words; pydantic converts them ---

# What people change, and so what `--help` shows beside a command's own options; `--help-all` shows all settings.
COMMON = (
    "name", "data.root", "data.magnifications", "data.task", "split.protocol", "split.fold", "model.backbone",
    "model.weights", "tune.part", "run.dir",
)  # fmt: skip
FORMS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class Positional(str):
    """Marks an argument that has no name on the command line: what usage calls it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; `{self.prog} --help` shows how")


def parse_settings(kind: type[S], argv: list[str] | None, prog: str, description: str | None) -> S:
    """Settings from a command line: `--config NAME_OR_FILE` gives the defaults, `--section.name value` overrides them.
    Raises ConfigError for an invalid option; exits with 0 after `--help`."""
    argv, path = split_option(argv, "--config")
    default = load_config(path, kind) if path else kind()
    return change_settings(default, read_options(kind, argv, prog, description, default), "the command line")


def parse_arguments(kind: type[S], argv: list[str] | None, prog: str, description: str | None) -> S:
    """As parse_settings, without `--config`: positional arguments and a command's own options."""
    return change_settings(kind.model_construct(), read_options(kind, argv, prog, description), "the command line")


def read_options(
    kind: type[S], argv: list[str] | None, prog: str, description: str | None, default: S | None = None
) -> dict[str, Any]:
    """What a command line gives, by dotted names, before it is validated. Exits with 0 after `--help`. Settings are
    spelled as in YAML, a command's own options with hyphens. A switch takes no value: `--split.allow_leaks`,
    `--run.no_deterministic`."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _Parser(
        prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    if default is not None:
        parser.add_argument("--config", metavar="NAME_OR_FILE", help="YAML file, or name of a config that ships")
    settings, usage = list_settings(kind), prog
    hidden = {name for name in settings if "." in name} - set(COMMON)
    parser.epilog = f"--help-all lists all {len(settings)} settings." if hidden else ""
    parser.add_argument("--help-all", action="help", help=argparse.SUPPRESS)
    meanings = yaml.safe_load(MEANINGS.read_text(encoding="utf-8"))
    defaults = (default or kind.model_construct()).model_dump(mode="json", by_alias=True)
    for name, field in settings.items():
        section, _, key = name.rpartition(".")
        text = field.description or (meanings[section] if section else meanings).get(key, "")  # a script may say none
        value = (defaults.get(section) or {}).get(key) if section else defaults.get(name)
        several: dict[str, Any] = {"nargs": "+"} if get_origin(field.annotation) is tuple else {}
        if place := next((one for one in field.metadata if isinstance(one, Positional)), None):
            usage += f" {place}" + (" [...]" if several else "")
            parser.add_argument(name, metavar=place, help=text, **several)
            continue
        if value not in (None, "", []) and not isinstance(value, bool):
            text += f" (default: {' '.join(map(str, value)) if several else value})"
        text = argparse.SUPPRESS if name in hidden and "--help-all" not in argv else text.replace("%", "%%")
        flag = f"--{name}" if section else f"--{name.replace('_', '-')}"
        if field.annotation is not bool:
            parser.add_argument(flag, dest=name, metavar=_value_form(field.annotation), help=text, **several)
            continue
        shown = text if text == argparse.SUPPRESS else f"Switch off: {text}"
        off = f"--{section}.no_{key}" if section else f"--no-{flag[2:]}"
        for switch, on, meaning in ((flag, True, text), (off, False, shown)):
            meaning = argparse.SUPPRESS if on is bool(value) else meaning  # help shows what changes the default
            parser.add_argument(switch, dest=name, action="store_const", const=on, help=meaning)

    parser.usage = f"{usage} [options]"
    known, others = parser.parse_known_args(argv)
    for word in others:
        if word.startswith("--"):
            flags = [flag[2:] for flag in parser._option_string_actions]
            raise ConfigError(f"the command line: {_unknown(word[2:].partition('=')[0], flags)}")
    if others:
        parser.error(f"'{others[0]}' is not expected there (a switch takes no value)")
    return {name: None if value == "None" else value for name, value in vars(known).items()}


def _value_form(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"{{{','.join(map(str, get_args(kind)))}}}"
    return FORMS[kind] if kind in FORMS else _value_form(get_args(kind)[0])  # of int | None, or tuple[int, ...]: N


def split_option(argv: list[str] | None, option: str) -> tuple[list[str], Path | None]:
    """The other words of a command line, and the path that an option names."""
    # Of `--config`: read before the rest, since help shows its settings as the defaults.
    parser = _Parser("breakhis", add_help=False, allow_abbrev=False)
    parser.add_argument(option, type=Path, dest="path")
    known, others = parser.parse_known_args(argv)
    return others, known.path
