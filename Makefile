# Everything here sets itself up: it needs Python 3.11 to 3.13 with pip, nothing else.
PYTHON ?= python3
CHROMIUM ?= chromium
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# A file's tests run in one process, the longest files first; -rs lists every skipped test and why.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -rs

.PHONY: help demo app pictures notebooks benchmark test test-all lint lock croissant release-check clean
.DEFAULT_GOAL := help

help:   ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.demo   ## train on synthetic tissue and name the report: no download, 2 to 4 minutes on 2 cores
	$(BIN)/python -m breakhis_cls.train --config configs/demo.yaml

app: $(VENV)/.app demo   ## a page in the browser for the demo's model: upload an image, get an answer or a refusal
	$(BIN)/python -m breakhis_cls.serve "$$(ls -td runs/demo-0-0-* | head -1)"

pictures: demo   ## remake what docs/ shows of synthetic tissue: report.png (needs Chromium), saliency.png
	$(BIN)/python scripts/saliency_truth.py "$$(ls -td runs/demo-0-0-* | head -1)" --out docs
	$(BIN)/python -m breakhis_cls.sweep --config protocol_case --name five-folds --data.root synthetic \
		--data.magnifications 40 100 200 400 --image.height_px 64 --image.width_px 96 --model.weights random
	$(BIN)/python -m breakhis_cls.evaluate runs/five-folds-* --out reports/five-folds
	$(CHROMIUM) --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1280,1050 \
		--screenshot=docs/report.png "file://$(CURDIR)/reports/five-folds/index.html"

notebooks: $(VENV)/.dev   ## run notebooks/*.py into notebooks/*.ipynb, on synthetic tissue: 5 to 8 minutes on 2 cores
	$(BIN)/python scripts/notebooks.py

benchmark: $(VENV)/.demo   ## measure speed beside stock Keras and the bare limit: no download, some 20 minutes on 2 cores
	$(BIN)/python scripts/benchmark.py

test: $(VENV)/.dev   ## quick tests, some 9 minutes on 2 cores; lists what it skips, such as tests on real images (see CONTRIBUTING.md)
	$(PYTEST) -m "not slow"

test-all: $(VENV)/.dev   ## all tests, also those marked slow: soak, coverage simulation, benchmark, ablation, notebooks
	$(PYTEST)

lint: $(VENV)/.dev   ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

lock: $(VENV)/.dev   ## resolve uv.lock again after a change of pyproject.toml, and write constraints.txt from it
	$(BIN)/uv lock --no-config
	@{ echo "# Written by 'make lock' from uv.lock, the versions that the tests run with: pip install -c constraints.txt -e ."; \
		$(BIN)/uv export --locked --all-extras --all-groups --no-hashes --no-emit-project --no-annotate --no-header -q; \
	} > constraints.txt

croissant: $(VENV)/.dev   ## write docs/croissant.json, the data set's description for machines, from the package's tables
	$(BIN)/python scripts/croissant.py

release-check: $(BIN)/python   ## build sdist and wheel, install the wheel elsewhere and train with it: some 5 minutes
	$(BIN)/python scripts/release_check.py

clean:   ## remove the virtual environment; data, runs and reports stay
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"Python 3.11 to 3.13 is needed, found {v.major}.{v.minor}; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) (TensorFlow is some 600 MB; once)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.app: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) with Gradio (once)"
	@$(INSTALL) -e '.[app]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV) with the development tools (once)"
	@$(INSTALL) -e '.[dev]'
	@touch $@
