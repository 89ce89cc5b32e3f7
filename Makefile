# `make help` lists the targets. Works as root and as an ordinary user, on Linux and macOS.

PYTHON ?= python3
SITE ?= site
PORT ?= 8000
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
INSTALL := $(PIP) install --constraint constraints.txt --editable
REQUIREMENTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.PHONY: help site serve test test-long test-peer test-hub bench bench-cpu bench-gpu bench-peers docs screenshots lint format chromium clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

site: $(VENV)/site.stamp ## install what is needed and build the demo site into ./site
	$(BIN)/sitegen build demo --out $(SITE)
	@echo
	@echo "Look at it:  make serve  (or: $(BIN)/sitegen serve $(SITE))"

serve: $(VENV)/site.stamp ## serve ./site on this machine (PORT=8000)
	$(BIN)/sitegen serve $(SITE) --port $(PORT)

test: lint chromium ## linters, types and all tests but the long ones (ARGS="-k name" picks some)
	$(BIN)/python -m pytest $(ARGS)

test-long: $(VENV)/dev.stamp chromium ## exhaustive matrices, many kills, comparison with peers
	$(BIN)/python -m pytest -m "slow or peer" $(ARGS)

test-hub: $(VENV)/dev.stamp ## with a network: published SAEs of every format, and published numbers (downloads several GB)
	$(BIN)/python -m pytest -m hub tests/hub $(ARGS)

test-peer: $(VENV)/dev.stamp ## compare with sae-lens, sparsify and dictionary-learning, in environments made for them
	$(BIN)/python -m pytest -m peer $(ARGS)

lint: $(VENV)/dev.stamp ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/dev.stamp ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/dev.stamp ## time the operations under pytest-benchmark (ARGS="-k encode" picks some)
	$(BIN)/python -m pytest benchmarks $(ARGS) -o python_files='bench_*.py' -o python_functions='bench_*' --benchmark-only

bench-cpu: $(VENV)/dev.stamp ## every operation beside its contenders on this CPU; keeps the results
	$(BIN)/python -m benchmarks cpu

bench-gpu: $(VENV)/dev.stamp ## the same on a GPU, in less than eight minutes
	$(BIN)/python -m benchmarks gpu

bench-peers: $(VENV)/dev.stamp ## sae-lens beside sae_fast on this CPU, in an environment of its own
	$(BIN)/python -m benchmarks peers

docs: $(VENV)/docs.stamp ## build the documentation into build/docs
	$(BIN)/mkdocs build --quiet --strict --site-dir build/docs

screenshots: site $(VENV)/dev.stamp chromium ## photograph the pages of ./site into docs/screenshots
	$(BIN)/python tests/e2e/screenshots.py $(SITE) docs/screenshots

chromium:
	@if [ -n "$$CHROMIUM" ] || command -v chromium || command -v chromium-browser || command -v google-chrome \
	    || command -v google-chrome-stable || command -v chrome \
	    || ls "/Applications/Google Chrome.app" /Applications/Chromium.app; then exit 0; fi > /dev/null 2>&1; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo "Installing Chromium for the browser tests"; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } \
	        > /dev/null 2>&1 || echo "Chromium could not be installed: browser tests will be skipped"; \
	elif [ "$$(uname)" = Darwin ]; then \
	    echo "No Chromium: browser tests will be skipped. To run them: brew install --cask chromium"; \
	else \
	    echo "No Chromium: browser tests will be skipped. To run them, install your system's package 'chromium'"; \
	fi

clean: ## remove what builds and tests wrote; the environment stays
	rm -rf $(SITE) .sitegen build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV) .venv-peers

$(VENV)/python.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Making the environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/site.stamp: $(VENV)/python.stamp $(REQUIREMENTS)
	@echo "Installing the packages (minutes, the first time)"
	@$(INSTALL) '.[site]'
	@touch $@

$(VENV)/dev.stamp: $(VENV)/python.stamp $(REQUIREMENTS)
	@echo "Installing the packages and the development tools (minutes, the first time)"
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/site.stamp $@

$(VENV)/docs.stamp: $(VENV)/python.stamp $(REQUIREMENTS)
	@echo "Installing mkdocs"
	@$(PIP) install --constraint constraints.txt mkdocs mkdocs-material
	@touch $@
