# Every target sets itself up: a virtualenv, the locked dependencies, this package installed editable.
# Needs Python >= 3.11, pip and make. For another Python, name it and give it a virtualenv of its own:
#
#     make test PYTHON=python3.13 VENV=.venv313

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# Tests run side by side in so many processes, each with a MongoDB server of its own; 0: in this one. On two processors
# three of them end sooner than two: much of the time they wait for their servers and for timers.
JOBS ?= 3
# How long chaos rages, on which stores, and by which seed (a random one when it is empty).
SECONDS ?= 300
STORE ?= both
SEED ?=
# How many schedules are simulated.
SEEDS ?= 1000

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOCK := requirements/dev.lock
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# The lock is made by uv, in a virtualenv of its own: nobody else needs uv.
UV_VERSION := 0.13.9
UV_VENV := .venv-lock

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test chaos simulate bench bench-yardstick bench-profile bench-tracing lint lint-ruff lint-format lint-mypy lint-pyright lint-imports lock clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(STAMP)  ## make the virtualenv (the other targets do it when needed)

demo: $(STAMP)  ## run the demonstration
	$(BIN)/python examples/demo.py $(ARGS)

test: $(STAMP)  ## run the tests; ARGS="-k name" is passed to pytest, JOBS=0 runs them in one process
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

chaos: $(STAMP)  ## kill workers and break connections at random: SECONDS=300 STORE=sqlite|mongodb|both SEED=...
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --store $(STORE) $(if $(SEED),--seed $(SEED)) $(ARGS)

simulate: $(STAMP)  ## run simulated schedules with faults in virtual time: SEEDS=1000
	$(BIN)/python -m tests.worker.simulate --seeds $(SEEDS) $(ARGS)

bench: $(STAMP)  ## run the benchmarks: `durable bench` with ARGS
	$(BIN)/durable bench $(ARGS)

bench-yardstick: $(STAMP)  ## measure the engine beside a bare prototype of its design
	$(BIN)/python -m benchmarks.yardstick $(ARGS)

bench-profile: $(STAMP)  ## show where a workload's time goes, by parts of the code (Linux)
	$(BIN)/python -m benchmarks.profiling $(ARGS)

bench-tracing: $(STAMP)  ## measure what tracing costs
	$(BIN)/python -m benchmarks.tracing $(ARGS)

lint: lint-ruff lint-format lint-mypy lint-imports lint-pyright  ## ruff, mypy, import-linter, pyright

lint-ruff: $(STAMP)
	$(BIN)/ruff check .

lint-format: $(STAMP)
	$(BIN)/ruff format --check .

lint-mypy: $(STAMP)
	$(BIN)/mypy

lint-imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

lint-pyright: $(STAMP)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python .ci/verify_types.py

lock:  ## write the lock anew from pyproject.toml; ARGS=--upgrade takes newer versions
	$(PYTHON) -m venv $(UV_VENV)
	$(UV_VENV)/bin/python -m pip --disable-pip-version-check --quiet install uv==$(UV_VERSION)
	$(UV_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --all-extras --group dev --custom-compile-command 'make lock' \
		--output-file $(LOCK) $(ARGS) pyproject.toml

clean:  ## remove what the tools and builds leave; the virtualenvs too
	rm -rf $(VENV) $(UV_VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# Some systems package the part of venv that brings pip apart; there pip itself reaches into the new virtualenv.
$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("durable needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --without-pip $(VENV) \
		&& $(PYTHON) -m pip --python $(BIN)/python --quiet install pip; }
	$(PIP) install --require-hashes --only-binary :all: -r $(LOCK)
	$(PIP) install --no-build-isolation --no-deps --no-index --editable .
	@touch $@
