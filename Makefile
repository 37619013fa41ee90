# The first command makes .venv and installs into it; every later one finds that done.

PYTHON ?= python3
PYTEST_JOBS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format types check tables clean
.NOTPARALLEL:

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 12

install: $(STAMP)  ## .venv with the package (editable) and all tools, once

demo: $(STAMP)  ## train on Bach chorales and listen: everything lands in demo/
	$(BIN)/midigen demo --out demo
	@echo "\`. $(BIN)/activate\` puts midigen on the path of this shell."

# Each process has files of its own until one has nothing left: tests of a file share what it compiles.
test: $(STAMP)  ## the tests, in minutes
	$(BIN)/pytest -n $(PYTEST_JOBS) --dist worksteal -m "not slow"

test-all: $(STAMP)  ## the slow tests too
	$(BIN)/pytest -n $(PYTEST_JOBS) --dist worksteal

lint: $(STAMP)  ## style, imports, format, and notebooks without outputs
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/nbstripout --verify notebooks/*.ipynb

format: $(STAMP)  ## mend what `make lint` can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/nbstripout notebooks/*.ipynb

types: $(STAMP)  ## the type checker
	$(BIN)/mypy

check: lint types test  ## all that has to pass before a commit

tables: $(STAMP)  ## docs/benchmarks.md and docs/results.md from their rows
	$(BIN)/python scripts/tables.py

clean:  ## remove .venv, caches and builds; corpora, runs and demo stay
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp goes first and comes last: without it, whatever an interruption left is made anew.
# pip refuses to install anywhere but into a venv, so half of one cannot send it elsewhere.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit( \
		not (3, 11) <= v <= (3, 13) and "Python %d.%d does not do: name one of 3.11 to 3.13, as in" \
		" `make PYTHON=python3.11 test`" % v)'
	@if test -e $(STAMP); then rm $(STAMP); else \
		echo "Making $(VENV) with $$($(PYTHON) --version)"; \
		$(PYTHON) -m venv --clear $(VENV); \
	fi
	@echo "Installing into $(VENV): a minute or two"
	@$(BIN)/python -m pip --require-virtualenv install --quiet --disable-pip-version-check \
		-c constraints.txt -e '.[dev]'
	@touch $(STAMP)
