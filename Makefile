# make demo: train six methods on handwritten digits, three seeds each, and compare them.
# make test: lint, types and tests. Both make their own environment in .venv/ first.
# PYTHON=... chooses the Python; without it the newest suitable one on this machine is taken.

PYTHON ?= $(shell for version in 3.13 3.12 3.11; do \
    python$$version -c 'import ensurepip, venv' 2>/dev/null && echo python$$version && break; done)
BIN := .venv/bin
RUN := $(BIN)/python main.py

.PHONY: demo test results format lock docs clean

demo: .venv/demo demo/generated
	$(RUN) --mode=sweep --config=configs/digits.py --workdir=runs/demo \
	    --config.dataset.imbalance_ratio=100 --config.sweep.methods=erm,ros,drs,open,osed,fill \
	    --config.oversampling.generated_dir=demo/generated --config.oversampling.replace_ratio=1

test: .venv/test demo/generated
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(MAKE) results
	@if git rev-parse --git-dir >/dev/null 2>&1; then \
	    git diff --exit-code -- 'results/*/tables.md' 'results/*/runs.csv' || { \
	    echo "make results has changed these tables: look at the difference, then git add them" >&2; \
	    exit 1; }; \
	else echo "no git checkout, so the tables of results/ are not compared"; fi
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# The tables of results/, from what is kept of the runs.
results: .venv/demo
	$(BIN)/python -m benchmarks.tables

# The generated images of the demo.
demo/generated: demo/generated.zip | $(BIN)/python
	$(BIN)/python -m zipfile -e demo/generated.zip demo
	touch $@

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# docs/reference/configuration.md, from the schema.
docs: .venv/demo
	$(BIN)/python -m docs.configuration_page > docs/reference/configuration.md

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no suitable Python found: install Python 3.11, 3.12 or 3.13 \
	with its venv module, or name one: make demo PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# The core alone: no TensorFlow, no Stable Diffusion.
.venv/demo: requirements-core.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements-core.txt
	touch $@

.venv/test: requirements-dev.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@ .venv/demo

# After a change of the dependencies in pyproject.toml (needs uv).
LOCK := uv pip compile --universal --python-version 3.11 --no-header --annotation-style line
lock:
	$(LOCK) pyproject.toml --output-file requirements-core.txt
	$(LOCK) --extra tfds --extra generation pyproject.toml --output-file requirements.txt
	$(LOCK) --all-extras pyproject.toml --output-file requirements-dev.txt

clean:
	rm -rf .venv runs demo/generated
