"""Is this checkout fit for release? `make release-check` says so in some 5 minutes; it needs a package index.

It builds sdist and wheel, checks both, installs the wheel into a fresh environment outside the repository, and uses it
there as a stranger would: configs by name, tables, templates, a small run on synthetic tissue, its report.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# One magnification and one epoch of the demo; no number of it means anything.
SMALL = ["--data.magnifications", "40", "--tune.epochs", "1"]


def main() -> int:
    """Exit code 0 if every step ended as it should; the first that did not is printed with its output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="train the whole demo instead of a smaller one")
    parser.add_argument("--dist", type=Path, default=ROOT / "dist", help="folder for sdist and wheel")
    arguments = parser.parse_args()
    (version,) = re.findall(r'__version__ = "(.+)"', (ROOT / "breakhis_cls/__init__.py").read_text(encoding="utf-8"))
    constraints = str(ROOT / "constraints.txt")
    with tempfile.TemporaryDirectory() as folder:
        # --- build and check, with tools of an environment of their own ---
        here = Path(folder)
        tools, fresh = make_environment(here / "tools"), make_environment(here / "fresh")
        for leftover in arguments.dist.glob("breakhis_cls-*"):
            leftover.unlink()
        run([tools, "-m", "pip", "install", "-q", "-c", constraints, "build", "twine"], here)
        run([tools, "-m", "build", "--outdir", str(arguments.dist), str(ROOT)], here)
        built = sorted(map(str, arguments.dist.glob("breakhis_cls-*")))
        run([tools, "-m", "twine", "check", "--strict", *built], here)
        wheel = next(path for path in built if path.endswith(".whl"))

        # --- install and use, away from the repository ---
        work = here / "work"
        work.mkdir()
        run([fresh, "-m", "pip", "install", "-q", "-c", constraints, wheel], work)
        run([fresh, "-m", "pip", "check"], work)
        breakhis = str(Path(fresh).with_name("breakhis"))
        said = run([breakhis, "--version"], work).strip()
        if said != version:
            raise SystemExit(f"the wheel says version {said}, the source {version}")
        run([breakhis, "doctor", "--config", "demo"], work)
        run([breakhis, "audit", "--split.protocol", "case"], work)
        run([breakhis, "audit", "--split.protocol", "spanhol"], work, expected=1)  # the published folds leak
        run([breakhis, "train", "--config", "demo", *([] if arguments.full else SMALL)], work)
        (finished,) = (work / "runs").glob("demo-0-0-*")
        run([breakhis, "evaluate", str(finished), "--out", "again"], work)
        for page in (*(work / "reports").glob("demo-*/index.html"), work / "again" / "index.html"):
            print(f"    {page.relative_to(work)}: {page.stat().st_size:,} bytes")
    print(f"version {version} is fit for release: {', '.join(built)}")
    return 0


def make_environment(folder: Path) -> str:
    """A fresh virtual environment; returns its Python."""
    venv.create(folder, with_pip=True)
    return str(next(folder.glob("[bS]*/python*")))  # bin, or Scripts on Windows


def run(command: list[str], cwd: Path, expected: int = 0) -> str:
    """Run a command and return its output; exits with the output where the exit code is not the expected one."""
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in command)
    print(f"$ {shown}", flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # the wheel, not us
    answer = subprocess.run(
        command, cwd=cwd, env=environment, check=False, encoding="utf-8", errors="replace",
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if answer.returncode != expected:
        raise SystemExit(f"{answer.stdout}\n{shown} ended with {answer.returncode}, expected {expected}")
    return answer.stdout


if __name__ == "__main__":
    sys.exit(main())
