"""Every notebook is fresh against its script, reads well on the web, and runs, here on a smaller set."""

import importlib.util
import itertools
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest

from breakhis_cls.notebook import setup
from breakhis_cls.synthetic import tree

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES, MAX_BYTES = 16, 1_500_000
STRANGERS = sorted({str(Path.home()), str(ROOT), sys.prefix, "/tmp", "/root", "/home/"})


spec = importlib.util.spec_from_file_location("notebooks", ROOT / "scripts" / "notebooks.py")
notebooks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebooks)
SCRIPTS = notebooks.SCRIPTS
each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)


def _cells(script, kind="code"):
    return [cell for cell in notebooks.unrun(script).cells if cell.cell_type == kind]


def _committed(script):
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def _is_fresh(script):
    """Whether the .ipynb has the cells of its script."""
    written, expected = _committed(script), notebooks.unrun(script)
    return [(c.cell_type, c.source) for c in written.cells] == [(c.cell_type, c.source) for c in expected.cells]


def test_all_six_are_here():
    assert [script.stem[:2] for script in SCRIPTS] == ["01", "02", "03", "04", "05", "06"]


@each
def test_it_is_fresh_against_its_script(script):
    assert _is_fresh(script), f"{script.stem} was edited: run `make notebooks` and commit both"


@each
def test_it_was_run_in_order_and_to_its_end(script):
    notebook = _committed(script)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = list(itertools.chain.from_iterable(cell.outputs for cell in code))
    assert outputs and not any(output.output_type == "error" for output in outputs)


@each
def test_its_outputs_are_for_any_reader(script):
    path = script.with_suffix(".ipynb")
    assert path.stat().st_size < MAX_BYTES
    text = json.dumps([cell.get("outputs", []) for cell in _committed(script).cells])
    assert not [stranger for stranger in STRANGERS if stranger in text]
    assert not re.search(r"[A-Z]\w+Warning|absl::|cuda", text)  # nothing is left out, so there was none


@each
def test_its_cells_are_short_and_define_nothing(script):
    for cell in _cells(script):
        assert len(cell.source.splitlines()) <= MAX_LINES, cell.source
        assert not [line for line in cell.source.splitlines() if line.startswith(("def ", "class "))]


@each
def test_it_begins_as_the_others_do(script):
    first = _cells(script)[0].source
    assert first == _cells(SCRIPTS[0])[0].source
    assert first.startswith("from breakhis_cls.notebook import setup\n\nDATA = setup(")
    assert len(first.splitlines()) == 3
    assert "No one ran this notebook on Colab or Kaggle yet" in " ".join(_cells(script, "markdown")[0].source.split())


def test_setup_works_in_the_project_and_says_where_the_data_is(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.delenv("BREAKHIS_DATA", raising=False)
    for _ in range(2):  # the cell may run twice
        assert setup("somewhere") == "somewhere" and Path.cwd() == tmp_path
    monkeypatch.setenv("BREAKHIS_DATA", "elsewhere")
    assert setup() == "elsewhere"


@each
def test_it_hides_nothing(script):
    text = script.read_text()
    hiding = ("subprocess", "DEVNULL", "capture", "filterwarnings", "simplefilter", "redirect", "2>")
    assert not [word for word in hiding if word in text]


def test_the_tool_keeps_warnings_and_drops_progress_bars(tmp_path):
    script = tmp_path / "07_warns.py"
    script.write_text(
        "# %%\nimport warnings\nfrom rich.progress import track\nwarnings.warn('mind this')\n"
        "print(sum(track(range(3))))\n"
    )
    outputs = notebooks.executed(script, tmp_path).cells[0].outputs
    assert [output.name for output in outputs] == ["stderr", "stdout"] and "mind this" in outputs[0].text


ROUNDING = 1e-6  # of float32: `predict` on the page has a smaller last batch, which a processor may sum otherwise


def _difference(notebook):
    """What notebook 03 says is the largest difference between its own predictions and those of `train_run`."""
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return float(re.search(r"largest difference between two probabilities: (\S+)", "".join(texts))[1])


def test_keras_on_the_page_gives_the_predictions_of_the_package():
    assert _difference(_committed(SCRIPTS[2])) < ROUNDING
    code = "\n".join(cell.source for cell in _cells(SCRIPTS[2]))
    assert code.count(".compile(") == code.count(".fit(") == 2 and "run = bk.train_run(settings)" in code


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    """A folder to run in, and a quarter of the synthetic images."""
    here = tmp_path_factory.mktemp("notebooks")
    tree.write_tree(here / "tissue", images_per_cell=1)
    return here


@pytest.mark.parametrize(
    "script",  # one in every test run, all in `make test-all`: each trains in a kernel of its own
    [pytest.param(one, id=one.stem, marks=[pytest.mark.slow] if at else []) for at, one in enumerate(SCRIPTS)],
)
def test_it_runs_on_a_smaller_set(script, smaller, monkeypatch):
    monkeypatch.setenv("BREAKHIS_DATA", str(smaller / "tissue"))
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    notebook = notebooks.executed(script, smaller)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    if script == SCRIPTS[2]:
        assert _difference(notebook) < ROUNDING


def test_a_changed_script_makes_its_notebook_stale(tmp_path):
    for path in (SCRIPTS[0], SCRIPTS[0].with_suffix(".ipynb")):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    script = tmp_path / SCRIPTS[0].name
    assert _is_fresh(script)
    script.write_text(script.read_text() + "\n# %%\n1 + 1\n")
    assert not _is_fresh(script)
