"""Check a split for leaks: which test images, slides or cases has a model seen in training, in any fold?

examples:
  breakhis audit --split.protocol spanhol                        from the 7,909 official names alone
  breakhis audit --split.protocol mine.csv --data.root FOLDER    also equal pixels and near duplicates
  breakhis audit --gallery                                       all protocols and random splits in one table

Writes audit.json, leaks.csv and index.html. Exit code 0: no leaks, 1: leaks, 2: bad input.
"""

import sys
from pathlib import Path

from . import config, files
from .errors import ANSWER_IS_NO, DONE, exits_cleanly


class Settings(config.Section):
    """Settings of the command."""

    data: config.Data = config.Data(root="")
    """Without data.root the official file names are audited, and no image is opened."""
    split: config.Split = config.Split()
    """The split to audit, in all its folds."""
    gallery: bool = False
    """Compare all named protocols and 20,000 random splits by folder instead, of the official names."""
    out: config.UserPath | None = None
    """Output folder; by default reports/audit-<protocol>, or reports/audit-gallery."""


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Audit, write and print; exit code 1 if anything leaks."""
    settings = config.parse_settings(Settings, argv, "breakhis audit", __doc__)
    # Imported here, so that --help needs neither pandas nor SciPy.
    from .data import leakage
    from .reports import audit_report, leak_gallery

    name = "gallery" if settings.gallery else Path(settings.split.protocol).stem
    out = settings.out or config.Run().reports / f"audit-{name}"
    files.check_folder(out, "--out")
    if settings.gallery:
        print(f"{leak_gallery.write_gallery(out)}\nfigure: {out / 'gallery.png'}")
        return DONE
    audit = leakage.audit_split(settings.split, settings.data)
    table = audit_report.write_audit(audit, out)
    print(f"Test images that share these with training, protocol {name}:\n\n{table.to_string(index=False)}\n")
    print("\n".join([audit_report.headline(audit), *audit.messages, f"report: {out / 'index.html'}"]))
    return ANSWER_IS_NO if len(audit.leaks) else DONE  # so that a script or CI can refuse a leaky split


if __name__ == "__main__":
    sys.exit(main())
