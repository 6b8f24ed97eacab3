# The two commands a person needs are `make run` and `make test`; `make help` lists the rest.
# Everything is installed into .venv, once per content of the requirements files: a second run starts at once.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
MODEL ?=
ARGS ?=
BENCH ?=

RUN_HASH := $(shell sha256sum requirements.txt | cut -c1-16)
DEV_HASH := $(shell cat requirements.txt requirements-dev.txt | sha256sum | cut -c1-16)
RUN_STAMP := $(VENV)/.installed-run-$(RUN_HASH)
DEV_STAMP := $(VENV)/.installed-dev-$(DEV_HASH)
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --no-input
# .venv/bin/coral-reef, which works from any directory
LAUNCHER := printf '\#!%s\nimport sys\n\nsys.path.insert(0, "%s")\nfrom cli.main import main\n\nmain(prog_name="coral-reef")\n' \
	"$(CURDIR)/$(PY)" "$(CURDIR)" > $(VENV)/bin/coral-reef && chmod +x $(VENV)/bin/coral-reef

.PHONY: help run install install-dev packages test lint unit proto lock bench bench-knowledge bench-websocket bench-devices soak clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

run: install ## install what is missing, start everything, print the URL (MODEL=NAME or MODEL=path.gguf)
	@exec $(PY) -m cli up $(if $(MODEL),--model "$(MODEL)") $(ARGS)

install: $(RUN_STAMP)

install-dev: $(DEV_STAMP)

$(VENV)/bin/python:
	@$(PYTHON) deploy/check_python.py
	@echo "Creating $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Could not create a virtual environment. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(RUN_STAMP): | $(VENV)/bin/python
	@echo "Installing requirements.txt into $(VENV) (first time: a few minutes) ..."
	@$(PIP_INSTALL) -r requirements.txt
	@$(LAUNCHER)
	@rm -f $(VENV)/.installed-*; touch $@

$(DEV_STAMP): | $(VENV)/bin/python
	@echo "Installing requirements-dev.txt into $(VENV) (first time: a few minutes) ..."
	@$(PIP_INSTALL) -r requirements-dev.txt
	@$(LAUNCHER)
	@rm -f $(VENV)/.installed-*; touch $@ $(RUN_STAMP)

packages: ## install the Debian packages that the tests need, where they are missing
	@bash deploy/test-packages.sh

test: install-dev packages ## install what the tests need, then run every check and every test (ARGS="tests/x -q": these alone)
ifeq ($(ARGS),)
	@$(MAKE) --jobs=3 --keep-going test-parts test-integration test-faults
else
	@$(PY) -m pytest $(ARGS)
endif

# Three sets run side by side, each about as long: tests of the running product mostly wait for processes that they
# start and kill, so two cores serve three of them.
.PHONY: test-parts test-integration test-faults
test-parts: install-dev
	@$(PY) -m pytest tests/unit tests/contract libs tests/acceptance

test-integration: install-dev
	@$(PY) -m pytest tests/integration

test-faults: lint
	@$(PY) -m pytest tests/faults

lint: install-dev ## ruff, mypy --strict, import-linter
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

unit: install-dev ## the fast tests only
	@$(PY) -m pytest tests/unit $(ARGS)

proto: install-dev ## write app/grpc_api/generated/ from proto/coral_reef.proto
	@$(PY) -m app.grpc_api.proto

lock: ## compile requirements*.in to requirements*.txt
	@test -x build/lock/bin/uv || { $(PYTHON) -m venv build/lock && build/lock/bin/pip install --disable-pip-version-check -q uv; }
	@for name in requirements requirements-dev; do \
	  build/lock/bin/uv pip compile -q --python-version 3.11 --universal --no-emit-index-url --no-header \
	    $$name.in -o $$name.txt; echo "$$name.txt written"; done

bench: install-dev ## measure and print the figures of the documents (BENCH="chat" runs one of them)
	@$(PY) -m bench $(BENCH)

# the peer that the embedding library is measured beside; torch is needed by nothing else
PEER_STAMP := build/peer/.installed-torch-2.13.0

$(PEER_STAMP):
	@echo "Installing sentence-transformers into build/peer (first time: a few minutes) ..."
	@$(PYTHON) -m venv build/peer
	@build/peer/bin/pip install --disable-pip-version-check --no-input -q torch==2.13.0 sentence-transformers
	@touch $@

bench-knowledge: install-dev $(PEER_STAMP) ## the figures of documents: embedding, parsing, searching, uploading
	@$(PY) -m bench embeddings passages knowledge_search knowledge_quality ingestion

# the peers that the WebSocket library is measured beside, each in the version of the documents' figures
WEBSOCKET_BENCH := libs/websocket_fabric/bench
WEBSOCKET_PEERS := build/peer-websocket/.installed-$(shell sha256sum $(WEBSOCKET_BENCH)/peers.txt | cut -c1-16)

$(WEBSOCKET_PEERS):
	@echo "Installing $(WEBSOCKET_BENCH)/peers.txt into build/peer-websocket (first time: a minute) ..."
	@$(PYTHON) -m venv build/peer-websocket
	@build/peer-websocket/bin/pip install --disable-pip-version-check --no-input -q -r $(WEBSOCKET_BENCH)/peers.txt
	@rm -f build/peer-websocket/.installed-*; touch $@

bench-websocket: $(WEBSOCKET_PEERS) ## the figures of websocket_fabric beside its peers (ARGS="--soak 600": ten minutes)
	@build/peer-websocket/bin/python $(WEBSOCKET_BENCH)/fabric_bench.py $(ARGS)

bench-devices: install-dev packages ## the figures of TFLite models, media workers and pipelines
	@$(PY) -m bench devices

soak: install-dev packages ## the minutes-long endurance runs
	@$(PY) -m pytest -m soak --timeout=1800 $(ARGS)

clean: ## remove caches and the virtual environment; data/ stays
	@rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info libs/*/src/*.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
