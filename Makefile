# SPDX-License-Identifier: Apache-2.0
# Every target sets up what it needs: tools/setup/bootstrap.py costs 0.1 s once .venv is complete.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
PYTEST := $(VENV_PYTHON) -m pytest --durations=10
# What `make view` shows: the demo's bag once there is one, else a street of our own.
SOURCE ?= $(if $(wildcard out/demo/bag),out/demo/bag,synthetic)
# The site's generator, by the authors of MkDocs Material; beside .venv's packages, which it needs none of. Python 3.11.
ZENSICAL := zensical==0.0.73
.DEFAULT_GOAL := help
.PHONY: help setup demo view docs test test-fast test-all lint lock clean distclean

help:  ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## create or update .venv: torch, the pinned packages, ROS 2, the messages
	@$(PYTHON) tools/setup/bootstrap.py

demo: setup  ## images in, occupancy out, through ROS 2: writes out/demo/
	@$(VENV_PYTHON) -m gaussianocc_ros.demo

view: setup  ## look at the demo's drive, or SOURCE=bag or data set, in a browser
	@$(VENV_PYTHON) -m gaussianocc_core.view $(SOURCE)

docs: setup  ## the docs as a site with its links checked: out/site/index.html
	@test -x .venv/docs/bin/zensical || $(VENV_PYTHON) -m venv .venv/docs
	@.venv/docs/bin/pip install --quiet $(ZENSICAL)
	@.venv/docs/bin/zensical build --strict

test: lint  ## lint, then every test not marked slow
	@$(PYTEST) -m "not slow"

test-fast: setup  ## the tests that take seconds
	@$(PYTEST) -m "not slow and not medium"

test-all: lint  ## lint, then every test
	@$(PYTEST)

lint: setup  ## ruff, and mypy on the core
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m mypy

lock: setup  ## recompile the lock files from tools/setup/*.in
	@$(PYTHON) tools/setup/bootstrap.py --lock

clean:  ## remove what builds, tests and demos leave; keeps .venv
	@rm -rf build install log dist out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

distclean: clean  ## also remove .venv
	@rm -rf .venv
