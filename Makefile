# A fresh machine needs python3 (3.11 to 3.13), make and bash; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.stamp-run
DEV_STAMP := $(VENV)/.stamp-dev
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test test-slow layers lint types audit bench format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(RUN_STAMP) ## learn to retrieve on real text, fill blanks with evidence, edit a document (7 minutes)
	@$(BIN)/realm demo --from-scratch $(ARGS)

demo-quick: $(RUN_STAMP) ## the same story on a slice (90 seconds)
	@$(BIN)/realm demo --quick $(ARGS)

test: $(DEV_STAMP) ## the whole test suite (ARGS="-k search" for a part)
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(DEV_STAMP) ## what starts, kills and joins processes for longer, Ray and an S3 server among them (5 minutes)
	@$(BIN)/python -m pytest -m slow $(ARGS)

layers: $(DEV_STAMP) ## imports point one way
	@$(BIN)/python -m pytest -n 0 -q tests/unit/test_layers.py

lint: $(DEV_STAMP) ## ruff: rules and format
	@$(BIN)/ruff check --no-cache .
	@$(BIN)/ruff format --no-cache --check .

format: $(DEV_STAMP) ## put every file into the project's format
	@$(BIN)/ruff check --no-cache --fix .
	@$(BIN)/ruff format --no-cache .

types: $(DEV_STAMP) ## mypy, strict
	@$(BIN)/mypy

audit: $(BIN)/python ## known vulnerabilities of the pinned versions (skipped where nobody can be asked)
	@test -x $(VENV)/audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)/audit && \
		$(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet 'pip-audit>=2.9,<3' >/dev/null 2>&1 || true; }
	@$(BIN)/python .ci/audit.py $(VENV)/audit/bin/pip-audit $(ARGS)

bench: $(DEV_STAMP) ## every benchmark, beside peers and limits (long; ARGS="--quick" to try it, "--out FOLDER" to keep records)
	@$(BIN)/python -m benchmarks all $(ARGS)

clean: ## remove the environment and everything that was built
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One install a change of what is asked for; the package itself is editable and needs none.
$(RUN_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing realm into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(PIP) --editable '.[spacy-en,track]'
	@touch $@

$(DEV_STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing realm and its development tools into $(VENV) (PyTorch is large: some minutes the first time)"
	@$(PIP) --editable '.[dev,spacy-en]'
	@touch $@ $(RUN_STAMP)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "found no $(PYTHON): install Python 3.11, 3.12 or 3.13, or say which: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else "found Python %d.%d: realm needs 3.11, 3.12 or 3.13; say which: make PYTHON=/path/to/python3" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "found a Python without venv: install it (Debian and Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@$(PYTHON) -m venv --clear $(VENV)
