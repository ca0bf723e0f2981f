# `make demo` and `make test` need Python 3.11 or newer and nothing else; both build the same environment in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test fuzz killed lint clean

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	# torch first: the pinned version is taken from wherever pip finds a CPU build, before anything else can pull a larger one.
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: .venv/.ready
	$(BIN)/gracile run digits

test: .venv/.ready
	$(MAKE) lint
	$(BIN)/python -m pytest -n 2

# 2,000 networks drawn from all rules of the channel graph; the tests draw 200 of them.
fuzz: .venv/.ready
	GRACILE_FUZZ=2000 $(BIN)/python -m pytest tests/laws/test_channels_fuzz.py

# Three processes by every method, one of them killed at fifty moments each: half an hour.
killed: .venv/.ready
	GRACILE_KILLS=50 $(BIN)/python -m pytest tests/rooms/test_workers_processes.py -q -k killed_at_any_moment

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

clean:
	rm -rf .venv
