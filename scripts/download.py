"""Fetch BreakHis from Kaggle, or unpack an archive, and verify the tree; `--help` says how."""

import sys

from breakhis_cls.download import main

if __name__ == "__main__":
    sys.exit(main())
