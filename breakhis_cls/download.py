"""Fetch BreakHis from Kaggle, or unpack an archive, into `data.root`, and check that it is complete.

examples:
  breakhis download                                    needs a Kaggle token, and says how to make one
  breakhis download --from-zip archive.zip --data.root FOLDER
"""

import sys
from pathlib import Path
from typing import Any

from pydantic import model_validator

from . import config
from .errors import ANSWER_IS_NO, DONE, ConfigError, DataError, exits_cleanly


class Settings(config.Section):
    """Where BreakHis comes from and where it goes."""

    data: config.Data = config.Data()
    from_zip: config.UserPath | None = None
    """An archive on this disk: Kaggle's zip, or the authors' BreaKHis_v1.tar.gz. None: download from Kaggle."""
    verify: bool = False
    """Download nothing; only check that all 7,909 images exist."""

    @model_validator(mode="before")
    @classmethod
    def _ignore_other_sections(cls, content: Any) -> Any:
        """The YAML file of a run also says how to train; only its data section matters here."""
        others = set(config.Config.model_fields) - set(cls.model_fields)
        return {name: value for name, value in content.items() if name not in others}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Download, unpack and check, or only check; exit code 1 if the tree is not complete."""
    settings = config.parse_settings(Settings, argv, "breakhis download", __doc__)
    if settings.data.root == "synthetic":
        raise ConfigError("data.root is 'synthetic', which is drawn and not downloaded; name a folder instead")
    if settings.from_zip and settings.verify:
        raise ConfigError("--from-zip and --verify exclude each other; use one of them")
    from .data import archive, completeness, index, kaggle_download

    try:
        existing = completeness.check_tree(index.find_root(settings.data))
    except index.NoImagesError:
        if settings.verify:
            raise
        existing = None
    if existing and (settings.verify or existing.is_complete):
        print(existing)
        return DONE if existing.is_complete else ANSWER_IS_NO
    # A tree of the user is neither overwritten nor mixed with another.
    root = Path(settings.data.root)
    if (target := root / archive.FOLDER).exists():
        found = existing or f"{target} exists, but holds no BreakHis tree"
        raise DataError(f"{found}. Move {target} away and run the same command again")

    # --- archive -> tree ---
    print(kaggle_download.LICENCE, flush=True)
    source = settings.from_zip or kaggle_download.fetch_archive(settings.data.cache / "archive", root)
    try:
        counted = completeness.check_tree(archive.unpack(source, root))
    except archive.DamagedError as error:
        if settings.from_zip:  # the user's own archive is never removed
            raise
        for file in (source, kaggle_download.marker_of(source)):
            file.unlink(missing_ok=True)
        raise DataError(f"{error}. It was removed; the same command downloads it again") from None
    print(counted)
    if not settings.from_zip:
        size = archive.format_bytes(source.stat().st_size)
        print(f"The archive is kept: {source}, {size}. To remove it: rm -r {source.parent}")
    return DONE if counted.is_complete else ANSWER_IS_NO


if __name__ == "__main__":
    sys.exit(main())
