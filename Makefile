# make demo: train four methods on handwritten digits, three seeds each, and compare them.
# make test: lint, types and tests. Both make their own environment in .venv/ first.

PYTHON ?= python3.11
BIN := .venv/bin
RUN := $(BIN)/python main.py

.PHONY: demo test format lock clean

demo: .venv/demo
	$(RUN) --mode=sweep --config=configs/digits.py --workdir=runs/demo \
	    --config.oversampling.generated_dir=demo/generated

test: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/demo: requirements.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/test: .venv/demo requirements-dev.txt
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

# After a change of the dependencies in pyproject.toml (needs uv).
lock:
	uv pip compile --python-version 3.11 --no-header --annotation-style line \
	    pyproject.toml --output-file requirements.txt
	uv pip compile --python-version 3.11 --no-header --annotation-style line \
	    --extra dev pyproject.toml --output-file requirements-dev.txt

clean:
	rm -rf .venv runs
