# Needs Python 3.11 or newer and nothing else. `make demo` installs what a user needs, `make test` the tools and tests on top of it.
PYTHON ?= python3
BIN := .venv/bin
# What is not imported need not be compiled; what is, once, and not by each of a hundred processes.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.PHONY: demo test lint peers docs fuzz killed wheel clean

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

.venv/.docs: .venv/.ready
	$(PIP) --editable '.[docs]'
	touch $@

demo: .venv/.ready
	$(BIN)/gracile run digits

test: .venv/.dev
	$(MAKE) lint
	# Each worker begins with whole files, so that what a file's tests share is made once; one more than cores, since tests wait for processes.
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

# What the tests draw a few of: networks from all rules of the channel graph, mutations of every file that is read.
fuzz: .venv/.dev
	GRACILE_FUZZ=2000 $(BIN)/python -m pytest tests/laws/test_channels_fuzz.py
	GRACILE_FUZZ=10000 $(BIN)/python -m pytest tests/rooms/test_data_fuzz.py tests/rooms/test_files_fuzz.py

# Three processes by every method, one of them killed at fifty moments each: half an hour.
killed: .venv/.dev
	GRACILE_KILLS=50 $(BIN)/python -m pytest tests/rooms/test_workers_processes.py -q -k killed_at_any_moment

# The libraries that results are checked against; tests that need one of them skip without it.
peers: .venv/.peers

# The site, in docs/_build/html; a warning is an error, and nothing is fetched.
docs: .venv/.docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

# The sdist and the wheel, in dist/, checked and tried outside of the checkout.
wheel: .venv/.dev
	$(BIN)/python tools/wheel.py

clean:
	rm -rf .venv dist docs/_build docs/api
