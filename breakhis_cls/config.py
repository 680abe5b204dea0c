"""Settings: one frozen type, its defaults here and nowhere else. YAML says what differs; the command line wins."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError

Magnification = Literal[40, 100, 200, 400]
PositiveInt = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Frozen, and deaf to no typing error: an unknown key is refused."""

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


def load_config(path: Path, kind: type[S] = Config) -> S:
    """Read settings from a YAML file; what it does not say keeps its default. An unknown key is a ConfigError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except FileNotFoundError:
        raise ConfigError(f"no such config: {path}{_configs_near(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}; expected sections such as 'data:' and 'split:'")
    if "name" in kind.model_fields:
        content.setdefault("name", path.stem)
    return validate_settings(kind, content, str(path))


def dump_config(settings: BaseModel) -> str:
    """Settings as YAML that `from_yaml` reads back to an equal value."""
    return yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)


def parse_settings(kind: type[S], argv: list[str] | None, prog: str, description: str) -> S:
    """Command line -> settings: `--config FILE` gives the defaults, `--section.name value` overrides them.

    Exits with code 2 and one screen on a wrong option, with 0 after `--help`.
    """
    argv, path = split_config_option(list(sys.argv[1:] if argv is None else argv))
    default = load_config(path, kind) if path else validate_settings(kind, {}, "defaults")
    description = f"{description}\n\n--config FILE.yaml gives the defaults shown below."
    return parse_arguments(kind, argv, prog, description, default)


def parse_arguments(kind: type[S], argv: list[str] | None, prog: str, description: str, default: S | None = None) -> S:
    """A command's arguments, by tyro. Exits with code 2 and one screen on a wrong option, with 0 after `--help`."""
    import tyro

    return tyro.cli(
        kind,
        args=argv,
        prog=prog,
        description=description,
        default=tyro.MISSING_NONPROP if default is None else default,
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
    )


def split_config_option(argv: list[str]) -> tuple[list[str], Path | None]:
    """Part `--config FILE` from the other words of a command line."""
    for at, word in enumerate(argv):
        if word.startswith("--config="):
            return argv[:at] + argv[at + 1 :], Path(word.partition("=")[2])
        if word == "--config":
            if at + 1 == len(argv):
                raise ConfigError("--config needs a file, such as configs/demo.yaml")
            return argv[:at] + argv[at + 2 :], Path(argv[at + 1])
    return argv, None


def _configs_near(path: Path) -> str:
    known = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [file.name for file in known], n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else "; configs/ holds those of the repository"


def validate_settings(kind: type[S], content: dict[str, Any], source: str) -> S:
    """Nested names and values -> settings. ConfigError, which begins with `source`, names what is unknown or wrong."""
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise ConfigError(_explained(error, kind, source)) from None


def _explained(error: ValidationError, kind: Any, source: str) -> str:
    lines = [_complaint(complaint, kind) for complaint in error.errors()]
    return f"{source}: " + ("\n  " if len(lines) > 1 else "") + "\n  ".join(lines)


def _complaint(complaint: Any, kind: Any) -> str:
    where = [str(part) for part in complaint["loc"]]
    name = ".".join(where)
    if complaint["type"] == "extra_forbidden":
        known = _keys(kind)
        same_end = [key for key in known if key.endswith(f".{where[-1]}")]
        near = same_end or difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
        return f"unknown setting '{name}'; {hint}"
    return f"{name} is {complaint.get('input')!r}: {complaint['msg'][0].lower()}{complaint['msg'][1:]}"


def _keys(kind: Any) -> list[str]:
    keys = []
    for name, field in kind.model_fields.items():
        nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        keys += [f"{name}.{inner}" for inner in field.annotation.model_fields] if nested else [name]
    return keys
