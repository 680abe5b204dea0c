"""The documentation is correct: commands are accepted and run, options exist, links lead to something.

Commands come from README.md, CONTRIBUTING.md and docs/*.md, from fenced blocks and from `code` in sentences. Each is
checked by its own parser. Those that cost little are also run, in one folder, with settings that make them small; the
others are skipped with the reason in NOT_RUN.
"""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from breakhis_cls import __main__ as breakhis
from breakhis_cls import config, sweep

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:breakhis|python -m breakhis_cls\.(?:\w+)|python scripts/\w+\.py|make)(?: |$)")
NOT_RUN = {  # the first words of a command -> why the test does not run it
    "pip install": "installs packages, as `make test` has done before",
    "python -m venv": "makes an environment, as `make test` has done before",
    ". ": "activates that environment",
    "make": "runs the tests themselves or takes minutes; only the target is looked up",
    "breakhis download": "fetches from Kaggle; test_download.py runs it with a local server",
    "breakhis sweep": "trains many runs; test_sweep.py runs small ones",
    "breakhis serve": "serves until it is interrupted; test_serve.py opens the page",
    "breakhis export": "takes a minute; test_export.py runs it in every format",
    "ray ": "another program; test_ray.py starts a cluster with it",
    "python scripts": "measures for minutes to hours",
}
NOT_OURS = ("ray ", "tensorboard ", "pip ", "uv ", "docker ", "#SBATCH ", "srun ", "sbatch ")  # not checked
PLACEHOLDERS = {
    "FILE": "configs/demo.yaml", "$SLURM_ARRAY_TASK_ID": "0", "NAME": "case", "NAME_OR_CSV": "case", "N": "1",
    "DIR": "out", "CSV": "out.csv", "RUN_OR_CONFIG": "binary_200x",
}  # fmt: skip
SMALL = ["--image.height_px", "32", "--image.width_px", "48", "--model.weights", "random", "--head.epochs", "1",
         "--tune.part", "none"]  # fmt: skip


class Accepted(Exception):
    """Raised by a parser after it has accepted its arguments."""


def _commands(page):
    """(command, whether it is in a block) for each command of a page, without comments and prompts."""
    text = page.read_text(encoding="utf-8")
    for language, block in FENCE.findall(text):
        if language in ("", "bash", "sh", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                for command in re.split(r"\s#\s|&&", line)[: line.count("&&") + 1]:
                    if command.strip() and not command.lstrip().startswith("#"):
                        yield command.strip().removeprefix("$ "), True
    for code in re.findall(r"`([^`]+)`", FENCE.sub("", text)):
        if OURS.match(code) and "<" not in code:
            yield " ".join(code.split()), False


def _is_command(line):
    return bool(OURS.match(line)) or line.startswith(tuple(NOT_RUN))


ALL = [(page.name, line, in_block) for page in PAGES for line, in_block in _commands(page)]
COMMANDS = list(dict.fromkeys((page, line) for page, line, _ in ALL if _is_command(line)))
each_command = pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line[:60] for _, line in COMMANDS])


def _words(line, run="runs/demo", images="images"):
    """`python -m breakhis_cls.explain RUN` -> ["breakhis", "explain", run]."""
    line = re.sub(r"python -m breakhis_cls\.(\w+)", r"breakhis \1", line)
    line = re.sub(r"\[[^\]]*\]|\.\.\.", "", line)  # optional arguments
    values = PLACEHOLDERS | {
        "RUN": run,
        "RUN_OR_CSV": run,
        "IMAGE_OR_FOLDER": images,
        "PATH": images,
    }
    return [run if re.match(r"runs/.*\*", word) else values.get(word, word) for word in shlex.split(line)]


@each_command
def test_command_is_accepted(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    _check_command(_words(line), monkeypatch)


def _check_command(words, monkeypatch):
    """The make target or script exists, and the command's own parser accepts the arguments."""
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"the Makefile has no target {words[1]}"
    if words[0] not in ("breakhis", "python") or words[1] == "-m":
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif len(words) == 2:
        assert words[1] in (*breakhis.COMMANDS, "--help")
        return
    parsers = ((config, "parse_settings"), (config, "parse_arguments"), (sweep, "read_command"))
    for owner, name in (*parsers, (argparse.ArgumentParser, "parse_args")):
        monkeypatch.setattr(owner, name, _stop_after(getattr(owner, name)))
    monkeypatch.setattr(sys, "argv", words[1:])
    with pytest.raises(Accepted):
        runpy.run_path(words[1], run_name="__main__") if words[0] == "python" else breakhis.main(words[1:])


def _stop_after(parser):
    def parse(*args, **kwargs):
        parser(*args, **kwargs)
        raise Accepted

    return parse


@pytest.fixture(scope="module")
def workspace(tiny_tree, tmp_path_factory):
    """A folder as a reader has it: configs, a tiny BreakHis in data/, and one finished run."""
    folder = tmp_path_factory.mktemp("workspace")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "data").mkdir()
    (folder / "data" / "breakhis").symlink_to(tiny_tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert breakhis.main(["train", "--config", "configs/binary_200x.yaml", *SMALL]) == 0
        (run,) = Path("runs").iterdir()
        assert breakhis.main(["features", str(run), "--out", "embeddings.npz"]) == 0
    (folder / "first_run").write_text(str(run))  # commands add others
    return folder


def _run_parameters():
    """Each command once, however often the pages name it. Heat maps take long and belong to `make test-all`."""
    lines = {tuple(_words(line)): line for _, line in reversed(COMMANDS)}
    for words, line in reversed(lines.items()):
        yield pytest.param(line, marks=[pytest.mark.slow] if words[:2] == ("breakhis", "explain") else [], id=line[:60])


@pytest.mark.parametrize("line", _run_parameters())
def test_command_runs(line, workspace, tiny_tree, monkeypatch):
    words = _words(line, (workspace / "first_run").read_text(), str(tiny_tree))
    if reasons := [reason for start, reason in NOT_RUN.items() if " ".join(words).startswith(start)]:
        pytest.skip(f"{line}: {reasons[0]}")
    if len(words) == 2:
        pytest.skip(f"{line}: the page only names the command")
    monkeypatch.chdir(workspace)
    small = {"train": SMALL, "features": SMALL, "explain": ["--n", "1"]}.get(words[1], [])
    assert breakhis.main([*words[1:], *small]) in (0, 1)


def test_blocks_hold_no_unknown_commands():
    unknown = [
        line
        for _, line, in_block in ALL
        if in_block and not _is_command(line) and re.match(r"(python|pip|ray|kaggle)\b", line)
    ]
    assert not unknown


def test_no_line_of_a_block_of_the_readme_is_cut_off():
    blocks = [block for _, block in FENCE.findall((ROOT / "README.md").read_text(encoding="utf-8"))]
    assert not [line for block in blocks for line in block.splitlines() if len(line) > 88]  # what GitHub shows


def test_every_reason_is_in_use():
    lines = [" ".join(_words(line)) for _, line in COMMANDS]
    assert not [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)]


def test_every_option_exists(capsys):
    known = set()
    for command in breakhis.COMMANDS:
        with pytest.raises(SystemExit):
            breakhis.main([command, "--help-all"])
        known |= set(re.findall(r"--[a-z][\w.-]+", capsys.readouterr().out.replace("-", "_").replace("__", "--")))
    for script in (ROOT / "scripts").glob("*.py"):
        known |= set(re.findall(r"--[a-z][\w.]+", script.read_text(encoding="utf-8")))
    named = {
        option.replace("-", "_").replace("__", "--", 1).rstrip(".")
        for page in PAGES
        for line in page.read_text(encoding="utf-8").splitlines()
        if not line.lstrip("`").startswith(NOT_OURS)
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]+", re.sub(r"`uv [^`]*`", "", line))
    }
    assert not (unknown := named - known), unknown


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TEXTS = [*PAGES, *sorted((ROOT / "notebooks").glob("*.py"))]


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=[page.name for page in TEXTS])
def test_every_link_leads_to_something(page):
    dead = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue  # no test uses the network
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        if not linked.exists() or (anchor and linked.suffix == ".md" and anchor not in _anchors(linked)):
            dead.append(target)
    assert not dead


def test_a_dead_link_and_an_unknown_option_are_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, *here*\n[gone](nowhere.md)\n```\nbreakhis train --head.epoch 3   # a letter is missing\n```\n"
    )
    assert _anchors(page) == {"a-heading-here"}
    with pytest.raises(AssertionError):
        test_every_link_leads_to_something(page)
    assert list(_commands(page)) == [("breakhis train --head.epoch 3", True)]
    with pytest.raises(pytest.fail.Exception):
        _check_command(_words("breakhis train --head.epoch 3"), monkeypatch)
