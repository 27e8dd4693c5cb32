# One virtual environment, made once and again whenever pyproject.toml changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCHMARKS := $(wildcard benchmarks/*.py)

.PHONY: run test lint docs bench clean
.DEFAULT_GOAL := run

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("jaxinv needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(STAMP)

run: $(STAMP)  ## the main job on the default head: a table and runs/quick/report.html
	$(BIN)/jaxinv run --preset quick --directory runs/quick

# A test's programs run once, and compiling them takes longest; a process a core, whose threads would wait.
test: export JAX_PLATFORMS := cpu
test: export JAX_DISABLE_MOST_OPTIMIZATIONS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: $(STAMP)  ## all tests, on CPU
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

lint: $(STAMP)  ## ruff and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation, in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/mkdocs build --strict

bench: $(STAMP)  ## every slow study, one after the other
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	for study in $(BENCHMARKS); do $(BIN)/python $$study || exit 1; done

clean:
	rm -rf $(VENV) site build dist
