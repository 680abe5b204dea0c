"""The pages keep their word: commands run, options exist, links lead somewhere.

Commands are taken from README.md, CONTRIBUTING.md and docs/*.md, out of fenced blocks and out of `code` in sentences.
Cheap ones are run, in one folder, with settings that make them small. Every other one is read by its own parser, and
NOT_RUN says why it is not run here.
"""

import argparse
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from breakhis_cls import __main__ as breakhis
from breakhis_cls import config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:breakhis|python -m breakhis_cls\.(?:\w+)|python scripts/\w+\.py|make)(?: |$)")
NOT_RUN = {  # the first words of a command -> why it is only read, not run, here
    "pip": "installs; `make test` and `make demo` have done the like by now",
    "python -m venv": "makes an environment; the Makefile does",
    "make": "make test is what runs this; its targets are only looked up",
    "breakhis download": "fetches from Kaggle; test_download.py runs it against a server of its own",
    "breakhis sweep": "trains many runs; test_sweep.py runs small ones",
    "ray": "another program; test_ray.py starts a cluster with it",
    "python scripts": "measurements of minutes to hours; the pages say on what they were run",
}
FOREIGN = ("ray ", "pip ", "#SBATCH ", "srun ", "sbatch ")  # whose options are not ours to check
PLACES = {
    "FILE": "configs/demo.yaml",
    "$SLURM_ARRAY_TASK_ID": "0",
    "NAME": "case",
    "NAME_OR_CSV": "case",
    "N": "1",
    "DIR": "out",
    "CSV": "out.csv",
}
SMALL = ["--image.height_px", "32", "--image.width_px", "48", "--model.weights", "random", "--head.epochs", "1",
         "--tune.part", "none"]  # fmt: skip


class Read(Exception):
    """Raised by a parser once it has accepted its words."""


def _commands(page):
    """(line, whether it stands in a block) of each command of a page; comments and prompts are taken off."""
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
    return bool(OURS.match(line)) or any(line.startswith(words) for words in NOT_RUN) or line.startswith(". ")


ALL = [(page.name, line, in_block) for page in PAGES if page.is_file() for line, in_block in _commands(page)]
COMMANDS = list(dict.fromkeys((page, line) for page, line, _ in ALL if _is_command(line)))


def _normal(line):
    """`python -m breakhis_cls.train --config FILE` -> ["breakhis", "train", "--config", "configs/demo.yaml"]."""
    line = re.sub(r"python -m breakhis_cls\.(\w+)", r"breakhis \1", line)
    line = re.sub(r"\[[^\]]*\]|\.\.\.", "", line)  # what is optional, and what goes on
    return [PLACES.get(word, word) for word in shlex.split(line)]


def _reason(words):
    return next((why for start, why in NOT_RUN.items() if " ".join(words).startswith(start)), None)


@pytest.fixture(scope="module")
def desk(tiny_tree, tmp_path_factory):
    """A folder as a reader has it: configs, BreakHis (a tiny one) under data/, and one finished run."""
    here = tmp_path_factory.mktemp("desk")
    (here / "configs").symlink_to(ROOT / "configs")
    (here / "scripts").symlink_to(ROOT / "scripts")
    (here / "data").mkdir()
    (here / "data" / "breakhis").symlink_to(tiny_tree)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert breakhis.main(["train", "--config", "configs/binary_200x.yaml", *SMALL]) == 0
    return here


def _substituted(words, here, tiny_tree):
    """Placeholders and globs of runs become the one run that is there."""
    run = str(next((here / "runs").iterdir()).relative_to(here))
    told = {
        "RUN": run,
        "RUN_OR_CSV": run,
        "RUN_OR_MODEL": run,
        "IMAGE_OR_FOLDER": str(tiny_tree),
        "PATH": str(tiny_tree),
    }
    return [run if word.startswith("runs/") and "*" in word else told.get(word, word) for word in words]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line[:60] for _, line in COMMANDS])
def test_a_command_does_what_its_page_says(page, line, desk, tiny_tree, monkeypatch):
    words = _normal(line)
    if words[-1].startswith("--"):
        return None  # names an option: test_every_option_that_is_named_exists
    if words[0] == "make":
        return _has_target(words[1])
    if words[0] == ".":
        return None  # activates what `python -m venv` has made
    words = _substituted(words, desk, tiny_tree)
    monkeypatch.chdir(desk)
    if _reason(words) or len(words) < 3:
        return _is_read(words, monkeypatch)
    more = SMALL if words[1] == "train" else ["--n", "1"] if words[1] == "explain" else []
    assert breakhis.main([*words[1:], *more]) in (0, 1)
    return None


def _has_target(name):
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {name}"


def _is_read(words, monkeypatch):
    """The command's own parser takes these words; of one that is only named, that it is there."""
    if words[0] not in ("breakhis", "python") or words[1] == "-m":
        return
    if words[0] == "python":
        assert (ROOT / words[1]).is_file()
    elif len(words) < 3:
        assert words[1] in breakhis.COMMANDS
        return
    for owner, name in ((config, "from_command_line"), (argparse.ArgumentParser, "parse_args")):
        monkeypatch.setattr(owner, name, _raising(getattr(owner, name)))
    monkeypatch.setattr(sys, "argv", words[1:])
    with pytest.raises(Read):
        runpy.run_path(words[1], run_name="__main__") if words[0] == "python" else breakhis.main(words[1:])


def _raising(parser):
    def parse(*given, **named):
        parser(*given, **named)
        raise Read

    return parse


def test_no_command_hides_in_a_block_under_a_name_that_is_not_known():
    hidden = [
        line
        for _, line, in_block in ALL
        if in_block and not _is_command(line) and re.match(r"(python|pip|ray|kaggle)\b", line)
    ]
    assert not hidden


def test_reasons_are_all_in_use():
    lines = [" ".join(_normal(line)) for _, line in COMMANDS]
    assert not [start for start in NOT_RUN if not any(line.startswith(start) for line in lines)]


def test_every_option_that_is_named_exists(capsys):
    known = set()
    for command in breakhis.COMMANDS:
        with pytest.raises(SystemExit):
            breakhis.main([command, "--help"])
        known |= set(re.findall(r"--[a-z][\w.-]+", capsys.readouterr().out.replace("-", "_").replace("__", "--")))
    for script in (ROOT / "scripts").glob("*.py"):
        known |= set(re.findall(r"--[a-z][\w.]+", script.read_text(encoding="utf-8")))
    named = {
        option.replace("-", "_").replace("__", "--", 1).rstrip(".")
        for page in PAGES
        if page.is_file()
        for line in page.read_text(encoding="utf-8").splitlines()
        if not line.lstrip("`").startswith(FOREIGN)
        for option in re.findall(r"(?<![\w-])--[a-z][\w.-]+", line)
    }
    assert not named - known - {"--section.name"}


LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
TEXTS = [page for page in [*PAGES, *sorted((ROOT / "notebooks").glob("*.py"))] if page.is_file()]


def _anchors(page):
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", TEXTS, ids=[page.name for page in TEXTS])
def test_no_link_is_dead(page):
    dead = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://", "mailto:")):
            continue  # no test reaches for the network
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and there.suffix == ".md" and anchor not in _anchors(there)):
            dead.append(target)
    assert not dead


def test_a_dead_link_and_a_wrong_option_would_be_found(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(
        "# A heading, *here*\n[gone](nowhere.md)\n```\nbreakhis train --head.epoch 3   # too few letters\n```\n"
    )
    assert _anchors(page) == {"a-heading-here"}
    with pytest.raises(AssertionError):
        test_no_link_is_dead(page)
    assert list(_commands(page)) == [("breakhis train --head.epoch 3", True)]
    with pytest.raises(SystemExit):
        _is_read(_normal("breakhis train --head.epoch 3"), monkeypatch)
