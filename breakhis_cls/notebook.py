"""The first cell of every notebook in notebooks/."""

import os
from pathlib import Path


def setup(data: str = "synthetic") -> str:
    """The notebook's `data.root`: `data`, unless BREAKHIS_DATA names a folder or Kaggle has attached images.

    Works in the project's folder from here on, where data/ and runs/ are, and shows figures below their cells.
    """
    from IPython.core.getipython import get_ipython

    if Path("../pyproject.toml").is_file():
        os.chdir("..")
    if shell := get_ipython():  # none where the cells run as a plain script
        shell.run_line_magic("matplotlib", "inline")
    attached = any(Path("/kaggle/input").glob("*"))
    return os.environ.get("BREAKHIS_DATA", "/kaggle/input" if attached else data)
