# `make` alone lists the targets. Each prepares .venv first, if it has to.

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS  ?=

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
unexport PYTHONDONTWRITEBYTECODE  # where it is set, each start of a process compiles all of it again

# A name on PATH proves nothing (a version manager's shim may stand for a Python that is not there, and a
# distribution may leave venv out), so each candidate has to run. `make PYTHON=/path/to/python` overrides.
USABLE := -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3; do \
	if $$python $(USABLE) >/dev/null 2>&1; then echo $$python; break; fi; done)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install node demo test test-all soak check serve bench bench-peers docs format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP)  ## make .venv and install everything (again only when pyproject.toml changed)

$(STAMP): pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ] || ! "$$python" $(USABLE) >/dev/null 2>&1; then \
		echo "runstore needs Python 3.11 or newer, with its venv module; found none that runs$${python:+ as $$python}." >&2; \
		echo "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make install PYTHON=/path/to/python3" >&2; \
		exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "Making $(VENV) with $$("$$python" --version)"; \
		"$$python" -m venv --clear $(VENV) || exit 1; \
	fi; \
	echo "Installing runstore, every extra and the test tools into $(VENV)"
	@pip="$(BIN)/python -m pip"; packages="--editable .[all,dev]"; \
	if $$pip config list | grep -q '\.index-url='; then \
		echo "With pip, which has an index of its own configured; that takes minutes"; \
		$$pip install -qq $$packages; \
	elif ! $$pip install -qq uv || \
		! $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python $$packages; then \
		echo "uv could not; now with pip, which takes minutes"; \
		$$pip install -qq $$packages; \
	fi
	@touch $@

node: $(STAMP)  ## install the packages for Node that tests need
	@PATH="$(CURDIR)/$(BIN):$$PATH" npm ci --prefix tests/node --silent --no-fund --no-audit

demo: $(STAMP)  ## tell the whole story against real servers, checking every claim
	@$(BIN)/runstore demo $(ARGS)

test: $(STAMP)  ## run the tests, but for the slow ones; ARGS="-n0 -k tail" goes to pytest
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(STAMP)  ## run all tests
	$(BIN)/python -m pytest $(ARGS)

soak: $(STAMP)  ## repeat the faults many times; RUNSTORE_SOAK=100 says how often
	RUNSTORE_SOAK=$${RUNSTORE_SOAK:-20} $(BIN)/python -m pytest -o faulthandler_timeout=0 tests/faults tests/acceptance/test_stuck.py $(ARGS)

check: $(STAMP)  ## lint, formatting, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

serve: $(STAMP)  ## serve on 127.0.0.1:8082, with the data in ./runstore.db
	@$(BIN)/runstore serve --port 8082 --database-url sqlite:///runstore.db $(ARGS)

bench: $(STAMP)  ## measure beside ceilings and peers; ARGS="append --quick" goes to the benchmark
	@$(BIN)/python -m benchmarks $(ARGS)

docs: $(STAMP)  ## build the documents as a site with a search: build/site/docs/index.html
	$(BIN)/sphinx-build -q -W --keep-going -b html -c docs . build/site
	@echo build/site/docs/index.html

bench-peers: $(STAMP)  ## measure beside a LangGraph server, which this installs, and beside FastAPI with Redis
	@$(BIN)/python -m benchmarks langgraph by_hand $(ARGS)

format: $(STAMP)  ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean:  ## remove .venv, caches and build products; data (runstore.db) stays
	rm -rf $(VENV) tests/node/node_modules build dist htmlcov .coverage .coverage.* \
		.mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find src tests benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
