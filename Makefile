# `make demo` and `make test` each do all set-up on a fresh machine with Python 3.11 or newer.
# JAXAD_PYTHON picks the interpreter: JAXAD_PYTHON=python3.13 make test

JAXAD_PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: setup demo test docs lint clean

setup:
	@JAXAD_PYTHON="$(JAXAD_PYTHON)" sh tools/setup.sh $(VENV)

demo: setup
	@$(BIN)/python -m ports convert efficientnet_lite0
	@$(BIN)/python -m ports convert efficientnet_lite2
	@$(BIN)/jaxad train --config configs/demo.py --workdir $(DEMO) --overwrite

test: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

docs: setup
	@$(BIN)/python -m sphinx -qW --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf $(VENV) runs docs/_build .pytest_cache .ruff_cache .mypy_cache
