# Needs only make and Python >= 3.11. Every target first builds .venv when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# One thread of torch and BLAS per process: the processes of pytest-xdist share the cores already.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check test-slow test-data test-flower clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## run the quick start and write its run folder under runs/
	$(BIN)/tandemrec run configs/quickstart.toml

test: $(READY) ## run the tests that need neither minutes, nor Ray, nor downloaded data
	$(PYTEST) -n auto

check: $(READY) ## check format, lint, types and import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-slow: $(READY) ## run the tests that take minutes
	$(PYTEST) -m slow

test-data: $(READY) ## run the tests on real interactions; TANDEMREC_DATA names their folder
	$(PYTEST) -m data -rs

test-flower: $(READY) ## run the tests that start Flower's simulation on Ray
	$(PYTEST) -m flower

clean: ## remove .venv, caches and build outputs; runs/ stays
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and by its exact version, so that the resolver cannot pick another build of it for a later package.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: PYTHON=$(PYTHON) is missing or older than 3.11; name a newer one, e.g. make PYTHON=python3.12" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv .venv || { \
	  echo "make: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; \
	  exit 1; }
	@echo "setting up .venv; this takes a few minutes the first time"
	$(BIN)/python -m pip install --quiet -c constraints.txt $(shell grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@
