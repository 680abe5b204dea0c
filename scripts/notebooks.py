"""Makes notebooks/*.ipynb, outputs included, from their percent scripts.

python scripts/notebooks.py [NAME ...]     some 4 minutes on 2 cores for all six; NAME such as 03_train
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from pathlib import Path
from typing import Any

import jupytext
import nbclient
import nbformat
from PIL import Image

from breakhis_cls.files import write_text

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))  # in reading order
TIMEOUT_S = 900  # of one cell, on a machine that does other things too
PHOTOGRAPHS_BYTES = 150_000  # a figure of lines is smaller
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
METADATA = {"kernelspec": KERNEL, "language_info": {"name": "python"}}


def main() -> int:
    """Run those named, or all, and write each beside its script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    for script in [FOLDER / f"{name}.py" for name in given.names] or SCRIPTS:
        started = time.monotonic()
        content = nbformat.writes(executed(script, FOLDER))
        write_text(script.with_suffix(".ipynb"), content + "\n")
        print(f"{script.stem}: {time.monotonic() - started:.0f} s, {len(content) / 1e6:.2f} MB", flush=True)
    return 0


def executed(script: Path, folder: Path) -> Any:
    """The notebook of a percent script, run in `folder`, with outputs for readers. CellExecutionError if one fails."""
    notebook = unrun(script)
    place = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=TIMEOUT_S, record_timing=False, resources=place).execute()
    notebook.metadata = nbformat.from_dict(METADATA)  # without the state of progress bars and the kernel's version
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if is_for_readers(output)]
            for output in cell.outputs:
                compress_photograph(output.get("data", {}))
    return notebook


def unrun(script: Path) -> Any:
    """The notebook of a percent script, cells numbered, so that equal scripts give equal bytes."""
    notebook = jupytext.read(script)
    notebook.metadata = nbformat.from_dict(METADATA)
    for at, cell in enumerate(notebook.cells):
        cell["id"] = f"{script.stem}-{at:02}"
        cell["metadata"] = {}
    return notebook


def is_for_readers(output: Any) -> bool:
    """False for progress bars: a widget, and an empty text after it. Nothing else is hidden, no warning either."""
    if output.output_type == "stream":
        return True
    data = output.get("data", {})
    return "application/vnd.jupyter.widget-view+json" not in data and bool(data.get("text/plain", "").strip())


def compress_photograph(data: dict[str, str]) -> None:
    """Replace a large PNG by a JPEG, which is a fifth of the size."""
    if len(data.get("image/png", "")) > PHOTOGRAPHS_BYTES:
        written = io.BytesIO()
        with Image.open(io.BytesIO(base64.b64decode(data.pop("image/png")))) as opened:
            opened.convert("RGB").save(written, "JPEG", quality=85, optimize=True)
        data["image/jpeg"] = base64.b64encode(written.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
