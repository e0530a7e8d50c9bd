# `make demo` and `make test` do everything, set-up included. `make help` lists the rest.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export TOKENIZERS_PARALLELISM := false
# A relative PIP_CONSTRAINT must survive pip's build environments, which run elsewhere.
ifdef PIP_CONSTRAINT
export PIP_CONSTRAINT := $(abspath $(PIP_CONSTRAINT))
endif

.PHONY: help setup demo test test-quick test-long check format clean
help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 14

setup: $(VENV)/.installed  ## make the virtual environment and install the package (again only when pyproject.toml changed)

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "railsformer needs Python 3.11 or later; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "Setting up $(VENV): a few minutes the first time, never again while pyproject.toml stays as it is."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: setup  ## the whole way on a rendered railway yard: build, fine-tune, evaluate, report
	@$(BIN)/railsformer demo

test: setup  ## every test but the long ones; 12 minutes on 2 cores are aimed at, slow ones take 27
	@$(BIN)/python -m pytest -m "not long" -n 2 --dist loadfile

test-quick: setup  ## the tests for every commit; at most 3 minutes
	@$(BIN)/python -m pytest -m "not slow and not long" -q -n 2 --dist loadfile

test-long: setup  ## what is slow: process kills, all schemes, simulations
	@$(BIN)/python -m pytest -m "long"

check: setup  ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: setup  ## let ruff format and fix
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

clean:  ## remove the virtual environment, caches and demo output
	rm -rf $(VENV) demo_output .pytest_cache .mypy_cache .ruff_cache
