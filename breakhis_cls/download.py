"""BreakHis on this disk: `python -m breakhis_cls.download [--from-zip P | --from-dir P] [--verify]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic import model_validator
from tyro.constructors import PrimitiveConstructorSpec

from . import config
from .errors import ANSWER_IS_NO, DONE, ConfigError, DataError, exits_cleanly


def _is_true(words: list[str]) -> bool:
    if words not in ([], ["True"], ["False"]):
        raise ValueError("it takes no value")
    return words != ["False"]


FLAG: Any = PrimitiveConstructorSpec(  # other switches are spelled out, as --data.skip_broken True
    nargs="*",
    metavar="",
    instance_from_str=_is_true,
    is_instance=lambda value: isinstance(value, bool),
    str_from_instance=lambda value: [str(value)],
)


class Download(config.Section):
    """Where BreakHis comes from and where it goes."""

    data: config.Data = config.Data()
    from_zip: Path | None = None
    """An archive that is here already: Kaggle's zip, or the authors' BreaKHis_v1.tar.gz. None: ask Kaggle."""
    from_dir: Path | None = None
    """A folder that holds an unpacked tree, to be copied."""
    verify: Annotated[bool, FLAG] = False
    """Fetch nothing, only check that all 7,909 images are there."""

    @model_validator(mode="before")
    @classmethod
    def _without_training(cls, content: Any) -> Any:
        """An experiment's YAML says more than where its data lies; the rest is not for here."""
        elsewhere = set(config.Config.model_fields) - set(cls.model_fields)
        return {name: value for name, value in content.items() if name not in elsewhere}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Fetch, unpack and verify, or only verify; a tree that is whole already is left alone."""
    title = "Fetch BreakHis, unpack it and verify the tree."
    settings = config.parse_settings(Download, argv, "breakhis download", title)
    _check(settings)
    return verify(settings.data) if settings.verify else download(settings)


def verify(data: config.Data) -> int:
    """Say whether the tree under `data.root` is whole; DataError if there is none."""
    from .data import completeness, index

    found = completeness.check_tree(index.find_root(data))
    print(found)
    return DONE if found.is_whole else ANSWER_IS_NO


def download(settings: Download) -> int:
    """A verified tree under `data.root`. A zip fetched from Kaggle is kept, and how to remove it is said."""
    from .data import archive, completeness, kaggle_download

    root = Path(settings.data.root).expanduser()
    if _is_here(settings.data, root / archive.FOLDER):
        return DONE
    given = settings.from_zip or settings.from_dir
    source = given or kaggle_download.fetch_archive(settings.data.cache.expanduser() / "archive", root)
    try:
        found = completeness.check_tree(archive.unpack(source.expanduser(), root))
    except archive.DamagedError as error:
        if given:
            raise
        kaggle_download.discard(source)
        raise DataError(f"{error}. It was removed; the same command starts afresh") from None
    print(found)
    if not given:
        held = archive.size(source.stat().st_size)
        print(f"The archive is kept: {source}, {held}. To remove it: rm -r {source.parent}")
    return DONE if found.is_whole else ANSWER_IS_NO


def _check(settings: Download) -> None:
    if settings.data.root == "synthetic":
        raise ConfigError("data.root is 'synthetic', which is drawn, not fetched; name a folder instead")
    asked = [name for name in ("from_zip", "from_dir", "verify") if getattr(settings, name)]
    if len(asked) > 1:
        raise ConfigError(f"--{asked[0]} and --{asked[1]} exclude each other; give one of them")


def _is_here(data: config.Data, target: Path) -> bool:
    """Whether the tree is whole already; DataError if something else stands where it would go."""
    from .data import completeness, index

    try:
        found = completeness.check_tree(index.find_root(data))
    except DataError:
        found = None
    if found is not None and found.is_whole:
        print(f"{found}; nothing to do")
        return True
    if target.exists():
        what = str(found) if found else f"{target} is there, but holds no tree"
        raise DataError(f"{what}. Move {target} away, and the same command makes it anew")
    return False


if __name__ == "__main__":
    sys.exit(main())
