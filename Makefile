# lakemill: `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
EXTRA ?= cpu
PY := $(VENV)/bin/python
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
FOLDERS := conf jobs pipelines serving udfs
# From the quickest to the slowest, so that a plain mistake shows early.
TESTS ?= $(wildcard tests/unit tests/integration tests/e2e)

.PHONY: help setup demo test lint bench ui clean clean-all requirements requirements-check

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv, Java, the Delta jars and the default model (EXTRA=gpu for a GPU; PYTHON=… for another Python)
	@$(BIN)/lakemill setup

$(READY): requirements/$(EXTRA).txt requirements/dev.txt requirements/setup.sh pyproject.toml
	@rm -f $(VENV)/.ready-*
	@requirements/setup.sh $(VENV) $(EXTRA)
	@touch $@

demo: setup ## Enrich a real table with a real model, start to finish
	@$(BIN)/lakemill demo

test: setup lint ## Lint, types, import contracts, then every test (TESTS=tests/unit for a part)
	@$(PY) -m pytest --durations=15 $(TESTS)

lint: $(READY) ## Check style, types and who imports whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@rm -rf .typing && mkdir -p .typing/lakemill
	@ln -s $(addprefix ../../,$(wildcard lakemill/*.py) lakemill/py.typed $(FOLDERS)) .typing/lakemill/
	@$(BIN)/mypy
	@# The contracts hold for the built wheel: an editable install hides the folders from import-linter.
	@rm -rf build && mkdir -p build
	@$(BIN)/uv pip install --python $(PY) --quiet --no-cache --no-deps --no-build-isolation --target build/lint-site .
	@cd build/lint-site && $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml --no-cache

bench: setup ## Measure table to table against the engine alone
	@$(PY) -m bench.table_to_table

ui: setup ## Open MLflow on the runs of this folder
	@$(BIN)/lakemill ui

requirements: $(READY) ## Remake requirements/*.txt with the newest versions that pyproject.toml allows
	@UV=$(BIN)/uv requirements/compile.sh requirements 3.11 --upgrade

requirements-check: $(READY) ## Check that requirements/*.txt agree with pyproject.toml, for Python 3.11 and 3.12
	@UV=$(BIN)/uv requirements/check.sh

clean: ## Remove build outputs and caches; keep .venv and .lakemill
	@rm -rf build dist .typing .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
	@rm -rf spark-warehouse metastore_db derby.log
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean-all: clean ## Also remove .venv and .lakemill: tables, runs, model, journal
	@if [ -x $(BIN)/lakemill ]; then $(BIN)/lakemill serve --stop || true; fi
	@rm -rf $(VENV) .lakemill
