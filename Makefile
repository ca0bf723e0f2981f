# Needs Python 3.11 or newer and nothing else. `make demo` installs what a user needs, `make test` the tools and tests on top of it.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint peers clean

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	# torch first: the pinned version is taken from wherever pip finds a CPU build, before anything else can pull a larger one.
	$(PIP) torch
	$(PIP) --editable .
	touch $@

.venv/.dev: .venv/.ready
	$(PIP) --editable '.[dev]'
	touch $@

.venv/.peers: .venv/.dev peers.txt
	$(PIP) --no-deps --requirement peers.txt
	touch $@

demo: .venv/.ready
	$(BIN)/gracile run digits

test: .venv/.dev
	$(MAKE) lint
	$(BIN)/python -m pytest -n 2

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# The libraries that results are checked against; tests that need one of them skip without it.
peers: .venv/.peers

clean:
	rm -rf .venv
