# make demo   the whole way on data built here        make test   the whole suite
# make bench  how fast, beside what: measures a quarter of an hour, renews docs/performance.md
# Needs python 3.11 or newer, pip and make; everything else is installed into .venv.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-long test-image coverage lint check bench bench-loading bench-memmap bench-stream clean

demo: $(VENV)/.installed
	$(BIN)/python -m ingest demo

# Three lanes at once, also on two cores, for the first waits more than it works: what needs Ray, which starts once for
# all of it, half of the others, and the rest, which is what is seen meanwhile.
RAY := tests/actors tests/acceptance
HALF := tests/examples $(addprefix tests/ingest/,stream load encode fetch hostile)

test: $(VENV)/.installed-dev
	@$(BIN)/python -m compileall -q ingest index actors # once, and not in each of hundreds of processes
	@logs=$$(mktemp -d); \
	$(BIN)/python -m pytest -q $(RAY) >"$$logs/ray" 2>&1 & ray=$$!; \
	$(BIN)/python -m pytest -q $(HALF) >"$$logs/half" 2>&1 & half=$$!; \
	trap 'kill $$half $$ray' INT TERM; \
	$(BIN)/python -m pytest -q $(addprefix --ignore=,$(RAY) $(HALF)); failed=$$?; \
	wait $$half || failed=1; wait $$ray || failed=1; \
	cat "$$logs/half" "$$logs/ray"; rm -rf "$$logs"; exit $$failed

# And every property on several times as many examples as `make test` tries.
test-long: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m long
	CELL_INGEST_DEEP=1 $(BIN)/python -m pytest -q -m "hypothesis and not long"

# The Dockerfile for real, as root on a Debian: tests/image/test_image.py says what it needs.
test-image: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q -m image -o faulthandler_timeout=3500 tests/image

# Every branch of ledger, driver, plan and validation is taken by a test; kernels are looked at uncompiled. Examples of
# properties are the same every time: whether all branches are taken is no matter of luck.
JUDGES := amendments begun_by_older committing crash_points driver ledger plan plan_index planning read_once \
  record_fields repairing running schedule unit_maker units verifying without_bad
coverage: $(VENV)/.installed-dev
	$(BIN)/coverage run -m pytest -q --hypothesis-seed=0 $(patsubst %,tests/ingest/test_%.py,$(JUDGES))
	NUMBA_DISABLE_JIT=1 $(BIN)/coverage run --append -m pytest -q --hypothesis-seed=0 tests/ingest/test_validate.py
	$(BIN)/coverage report

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: test lint

# On an otherwise idle machine. Parts of it: .venv/bin/python -m benchmarks --help
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (some minutes the first time)"
	$(PIP) --constraint constraints.txt --editable .
	@echo "compiling kernels (about 20 s, once)"
	$(BIN)/python -m ingest.warm
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(PIP) --constraint constraints.txt --editable '.[bench]'
	@touch $@

# Training loaders beside others', which are installed into environments of their own (some GB, in the user's cache).
bench-loading: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --only loading loading_first loading_workers loading_far

# Memory-mapped arrays beside bionemo-scdl, which gets an environment of its own.
bench-memmap: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --only memmap_convert memmap_rows

# Operations on one h5ad, file to file, beside anndata and scanpy in memory and beside backed mode.
bench-stream: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks --only stream stream_dense

clean:
	rm -rf $(VENV) build *.egg-info demo
