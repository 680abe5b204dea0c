"""Settings: one frozen type, its defaults here and nowhere else. YAML says what differs; the command line wins."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError

Magnification = Literal[40, 100, 200, 400]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Frozen settings; an unknown key raises."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Data(Section):
    """Which images."""

    root: str = "data/breakhis"
    """Folder that holds `histology_slides` at any depth (read-only is fine), or `synthetic` for drawn tissue."""
    cache: Path = Path("data/cache")
    """Where the index, pixel store, features and synthetic trees are kept."""
    magnifications: tuple[Magnification, ...] = (40, 100, 200, 400)
    """Any of 40 100 200 400; one model is trained on all that are named."""
    task: Literal["binary", "subtype"] = "binary"
    """binary: benign or malignant. subtype: the eight subtypes."""
    duplicates: Literal["auto", "keep", "first", "drop"] = "auto"
    """Images of equal pixels in different files: keep all, keep the first path, or drop all. auto: first for binary,
    drop for subtype."""
    skip_broken: bool = False
    """Leave out images that cannot be read, and record them, instead of stopping."""
    balance: Literal["none", "class_weights", "sampling"] = "none"
    """class_weights: the loss counts classes equally. sampling: classes, and cases within them, are drawn equally."""


class Split(Section):
    """Who is trained on and who is tested."""

    protocol: str = "case"
    """case, slide, spanhol, kaiko_eva, image (leaky), or a CSV file."""
    fold: Annotated[int, Field(ge=0)] = 0
    """From 0."""
    n_folds: Annotated[int, Field(ge=2, le=16)] = 5
    """For case, slide and image."""
    seed: int | None = None
    """None: the frozen assignment that the package ships, where one applies. A number makes a new one."""
    validation_share: Annotated[float, Field(gt=0, lt=0.9)] = 0.2
    """Share of the training cases that is set aside to choose epochs, thresholds and temperature."""
    allow_leaks: bool = False
    """Protocol `image` puts one slide on both sides; it is refused without this."""


class Image(Section):
    """What the network sees."""

    height_px: PositiveInt = 230
    """The default keeps the 700:460 shape at half size."""
    width_px: PositiveInt = 350
    """See height_px."""
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    """stretch: the whole field, which also restores one squeezed to a square. crop, pad: the aspect is kept."""
    stains: Literal["as_is", "macenko"] = "as_is"
    """macenko: every field is brought to one stain and strength before it is kept; helps across laboratories."""


class Model(Section):
    """Backbone and where its weights come from."""

    backbone: Literal["ResNet50", "DenseNet121", "EfficientNetV2B0", "ConvNeXtTiny"] = "ResNet50"
    """From keras.applications, with its own preprocessing."""
    weights: str = "imagenet"
    """imagenet, random, or the path of a .weights.h5 of the backbone without its top."""
    features: tuple[Literal["conv4", "conv5"], ...] = ("conv5",)
    """Blocks whose pooled output feeds the head: conv5 is the last of any backbone, conv4 the one before it."""
    dropout: Fraction = 0.2
    """Before the last layer."""


class Phase(Section):
    """One phase of training."""

    epochs: Annotated[int, Field(ge=0)]
    """At most; early stopping may end it sooner."""
    peak_lr: Annotated[float, Field(ge=0)]
    """Reached after warm-up; a cosine brings it to zero."""
    batch_size: PositiveInt
    """Images per step."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """AdamW's."""
    warmup_share: Fraction = 0.1
    """Share of the steps in which the rate rises from zero."""
    patience: PositiveInt = 10
    """Epochs without a better validation loss before training stops."""
    accumulate: PositiveInt = 1
    """Batches whose gradients are averaged before a step: a larger batch than memory holds."""
    label_smoothing: Fraction = 0.0
    """Moves targets towards equal chances; helps calibration where the head grows too sure."""
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Largest norm of a step's gradients together; helps where the loss jumps. 0: none."""
    ema: Fraction = 0.0
    """Momentum of a running mean of the weights, which is then what is validated and kept; 0: none."""


class Head(Phase):
    """Phase 1: the last layer on a frozen backbone. Its features are computed once and kept."""

    epochs: Annotated[int, Field(ge=0)] = 40
    """At most; 0 leaves the phase out."""
    peak_lr: Annotated[float, Field(ge=0)] = 2e-3
    """Reached after warm-up; a cosine brings it to zero."""
    batch_size: PositiveInt = 64
    """Images per step."""
    views: Literal[1, 8] = 1
    """8: train on the eight flips and quarter turns, at eight times the cost of extraction."""


class Tune(Phase):
    """Phase 2: fine-tuning of a part of the backbone, with BatchNorm frozen unless weights are random."""

    part: Literal["none", "conv5", "conv4", "all"] = "conv5"
    """conv4 means conv4 and conv5; none leaves the phase out."""
    epochs: Annotated[int, Field(ge=0)] = 5
    """At most; 0 leaves the phase out."""
    peak_lr: Annotated[float, Field(ge=0)] = 3e-5
    """Reached after warm-up; a cosine brings it to zero."""
    batch_size: PositiveInt = 16
    """Images per step."""
    patience: PositiveInt = 3
    """Epochs without a better validation loss before training stops."""


class Augment(Section):
    """Random views of training images; a function of (seed, epoch, row)."""

    flips: bool = True
    """Left-right and up-down; tissue has no up."""
    turns: bool = True
    """Quarter turns; on a field that is not square the scale is kept and the margins are mirrored."""
    stain: Fraction = 0.0
    """Spread of haematoxylin and eosin, each times 1 plus or minus up to this; helps where training cases are few."""
    brightness: Fraction = 0.0
    """Adds up to this share of 255, up or down; helps where lamps and cameras differ."""
    contrast: Fraction = 0.0
    """Stretches about the field's mean by 1 plus or minus up to this; helps where cameras differ."""
    scale: Fraction = 0.0
    """Zooms about the middle by 1 plus or minus up to this; helps one model see several magnifications."""
    test_views: Literal[1, 8] = 1
    """8: a prediction is the mean over the eight flips and quarter turns, at eight times the cost."""


class Run(Section):
    """Where a run lives and what makes it repeatable."""

    dir: Path = Path("runs")
    """Each run has its own folder below."""
    reports: Path = Path("reports")
    """Each run has its own report below."""
    seed: int = 0
    """Of initial weights, order, augmentation and dropout."""
    deterministic: bool = True
    """Equal bytes from equal commands on one machine; costs some 10-25 % of speed on CPU. On a GPU XLA and some fast
    kernels go too: no one measured that cost yet."""
    save_model: bool = True
    """Keep model.keras, some 95 MB. Without it a run on a frozen backbone keeps head.npz, which `predict` reads too."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """auto: mixed where every GPU is good at it, float32 elsewhere."""


class Config(Section):
    """Everything one run depends on."""

    name: str = "run"
    """Of the experiment; by default the name of the YAML file."""
    data: Data = Data()
    split: Split = Split()
    image: Image = Image()
    model: Model = Model()
    head: Head = Head()
    tune: Tune = Tune()
    augment: Augment = Augment()
    run: Run = Run()


S = TypeVar("S", bound=BaseModel)

SHIPPED = [
    folder for folder in (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs") if folder.is_dir()
]
"""Inside a wheel, or at the top of a checkout."""

# Settings that name places, or what the run folder's name says by content (weights and split by their hash): they do
# not change a result.
PLACES = (
    "name", "data.root", "data.cache", "model.weights", "split.protocol", "run.dir", "run.reports", "run.save_model",
)  # fmt: skip


def find_config(path: Path) -> Path:
    """The YAML file that `--config` names: a path, or the name of a config that ships, with or without `.yaml`.

    `configs/protocol_case.yaml`, where sweeps lay before they moved to `configs/sweeps`, is still found.
    Raises ConfigError if there is no such file.
    """
    if path.is_file():
        return path
    named = path if path.suffix in (".yaml", ".yml") else path.with_name(f"{path.name}.yaml")
    folders = [path.parent, path.parent / "sweeps"]
    if set(path.parent.parts) <= {"configs", "sweeps"}:  # a bare name, or the path within a checkout
        folders += [folder / below for folder in SHIPPED for below in (".", "sweeps")]
    for folder in folders:
        if (folder / named.name).is_file():
            return folder / named.name
    known = sorted({file.name for folder in folders for file in folder.glob("*.yaml")})
    near = difflib.get_close_matches(named.name, known, n=1)
    hint = (
        f"did you mean {path.parent / near[0]}?" if near else f"configs that ship: {', '.join(known) or 'none found'}"
    )
    raise ConfigError(f"no such config: {path}; {hint}")


def read_yaml(path: Path) -> dict[str, Any]:
    """The sections of a YAML file as nested names and values. ConfigError if it is not readable YAML."""
    path = find_config(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; expected sections such as 'data:' and 'split:'")
    return content


def load_config(path: Path, kind: type[S] = Config) -> S:
    """Read settings from a YAML file; what it does not say keeps its default. An unknown key is a ConfigError."""
    content = read_yaml(path)
    if "name" in kind.model_fields:
        content.setdefault("name", path.stem)
    return validate_settings(kind, content, str(path))


def dump_config(settings: BaseModel) -> str:
    """Settings as YAML that `load_config` reads back to an equal value."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def change_settings(settings: S, values: Mapping[str, Any], source: str = "settings") -> S:
    """A validated copy with dotted names set, such as `{"split.fold": 2}`. ConfigError names what is invalid."""
    content = settings.model_dump()
    for name, value in values.items():
        section, _, key = name.rpartition(".")
        (content.setdefault(section, {}) if section else content)[key] = value
    return validate_settings(type(settings), content, source)


def settings_without(settings: BaseModel, names: Iterable[str]) -> dict[str, Any]:
    """JSON-able settings without some dotted names: what is left is compared, hashed or shown."""
    content = settings.model_dump(mode="json")
    for name in names:
        section, _, key = name.rpartition(".")
        (content.get(section, {}) if section else content).pop(key, None)
    return content


def parse_settings(kind: type[S], argv: list[str] | None, prog: str, description: str) -> S:
    """Command line -> settings: `--config FILE` gives the defaults, `--section.name value` overrides them.

    Exits with code 2 and one screen on an invalid option, with 0 after `--help`.
    """
    argv, path = split_config_option(list(sys.argv[1:] if argv is None else argv))
    default = load_config(path, kind) if path else validate_settings(kind, {}, "defaults")
    description = f"{description}\n\n--config FILE.yaml gives the defaults shown below."
    return parse_arguments(kind, argv, prog, description, default)


def parse_arguments(kind: type[S], argv: list[str] | None, prog: str, description: str, default: S | None = None) -> S:
    """A command's arguments, by tyro. Exits with code 2 and one screen on an invalid option, with 0 after `--help`.

    A switch is `--split.allow_leaks` or `--run.no_deterministic`; the older `--run.deterministic False` is read too.
    """
    import tyro

    words = list(sys.argv[1:] if argv is None else argv)
    for at in range(len(words) - 2, -1, -1):
        if words[at].startswith("--") and words[at + 1] in ("True", "False"):
            section, dot, key = words[at][2:].rpartition(".")
            words[at : at + 2] = [f"--{section}{dot}{'' if words[at + 1] == 'True' else 'no_'}{key}"]
    return tyro.cli(
        kind,
        args=words,
        prog=prog,
        description=description,
        default=tyro.MISSING_NONPROP if default is None else default,
        use_underscores=True,
    )


def split_config_option(argv: list[str]) -> tuple[list[str], Path | None]:
    """`--config FILE` apart from the other words of a command line."""
    for at, word in enumerate(argv):
        if word.startswith("--config="):
            return argv[:at] + argv[at + 1 :], Path(word.partition("=")[2])
        if word == "--config":
            if at + 1 == len(argv):
                raise ConfigError("--config needs a file, such as configs/demo.yaml")
            return argv[:at] + argv[at + 2 :], Path(argv[at + 1])
    return argv, None


def validate_settings(kind: type[S], content: dict[str, Any], source: str) -> S:
    """Nested names and values -> settings. ConfigError, which begins with `source`, names each invalid one."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = error.errors()

    known: list[str] = []
    for name, default in kind.model_construct():
        known += [f"{name}.{key}" for key in type(default).model_fields] if isinstance(default, BaseModel) else [name]
    lines = []
    for problem in problems:
        name = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            # `epochs` alone most likely means head.epochs; else the nearest spelling.
            near = [key for key in known if key.endswith(f".{problem['loc'][-1]}")]
            near = near or difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            lines.append(f"unknown setting '{name}'; {hint}")
        else:
            lines.append(f"{name} is {problem.get('input')!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}")
    raise ConfigError(f"{source}: " + ("\n  " if len(lines) > 1 else "") + "\n  ".join(lines))
