"""What ships: versions that agree, an environment that is locked, workflows, and code that runs on other systems."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import yaml

import breakhis_cls
from breakhis_cls import parallel

ROOT = Path(__file__).resolve().parents[1]
EMULATIONS = {  # folder of the shared inputs, to be put on PYTHONPATH -> what it stands for
    "nofcntl": "Windows, which has neither fcntl nor resource",
    "noflock": "a disk without locks",
    "nolink": "a disk without hard links",
}


def _locked():
    """name -> version of every package in uv.lock but our own."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    names = [package["name"] for package in packages]
    assert len(names) == len(set(names)), "uv.lock has one package in two versions"
    sources = [package["source"] for package in packages if package["name"] != "breakhis-cls"]
    assert {tuple(source) for source in sources} == {("registry",)} and len({one["registry"] for one in sources}) == 1
    return {package["name"]: package["version"] for package in packages if package["name"] != "breakhis-cls"}


def test_constraints_and_lock_hold_the_same_versions_and_no_other_index():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line.partition(";")[0].strip() for line in text.splitlines() if not line.startswith("#")]
    assert dict(line.split("==") for line in lines) == _locked(), "run `make lock`"
    assert "://" not in text
    hosts = set(re.findall(r"\w+://[^/\"]+", (ROOT / "uv.lock").read_text(encoding="utf-8")))
    # The public index and its files: no mirror, which would have a port, a path on a disk, or plain http.
    assert len(hosts) == 2 and all(re.fullmatch(r"https://(files\.)?py[a-z]+\.org", host) for host in hosts)


def test_the_lock_is_of_this_pyproject():
    """`uv lock --check` would say so too, but it asks the index."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"] | project["dependency-groups"]
    wanted = [line for lines in (project["project"]["dependencies"], *extras.values()) for line in lines]
    wanted = {re.split(r"[\[<>=;~! ]", line)[0].lower().replace("_", "-") for line in wanted} - {"breakhis-cls"}
    assert wanted <= set(_locked()), "run `make lock`"


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == breakhis_cls.__version__
    assert f"\n## {breakhis_cls.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    assert [hook["additional_dependencies"] for hook in hooks] == [[f"ruff=={_locked()['ruff']}"]] * 2


def test_workflows_follow_their_schema():
    workflows = sorted(map(str, (ROOT / ".github" / "workflows").glob("*.yml")))
    assert len(workflows) == 2
    program = "import check_jsonschema; check_jsonschema.main()"
    command = [sys.executable, "-c", program, "--builtin-schema", "vendor.github-workflows", *workflows]
    answer = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert answer.returncode == 0, answer.stdout


def test_every_module_is_imported_where_fcntl_and_resource_are_missing():
    """As on Windows: Linux has both, so a module that imports one at the top fails nowhere else here."""
    program = (
        "import sys, pkgutil, importlib, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "sys.modules.update(dict.fromkeys(['fcntl', 'resource', 'termios', 'pwd', 'grp']))\n"
        "import breakhis_cls\n"
        "for found in pkgutil.walk_packages(breakhis_cls.__path__, 'breakhis_cls.'):\n"
        "    found.name.endswith('__main__') or importlib.import_module(found.name)\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=False)
    assert answer.returncode == 0, answer.stderr


def test_memory_is_known_where_there_is_no_sysconf(monkeypatch):
    pytest.importorskip("psutil")  # whose module for Linux wants sysconf once
    n_bytes = parallel.memory_bytes()
    monkeypatch.delattr(os, "sysconf", raising=False)  # as on Windows
    assert parallel.memory_bytes() == pytest.approx(n_bytes, rel=0.01)


def test_peak_memory_is_of_this_process():
    parallel.reset_peak_memory()
    filled = np.ones(25_000_000)
    assert filled.nbytes < parallel.peak_memory_bytes() < parallel.memory_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", EMULATIONS)
def test_the_whole_story_on_other_systems_and_disks(name, shared):
    path = os.pathsep.join([str(shared / "inputs" / "emulation" / name), str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "tests" / "test_story.py")]
    environment = {**os.environ, "PYTHONPATH": path}
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert answer.returncode == 0, answer.stdout[-5000:]
