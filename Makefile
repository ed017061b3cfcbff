# make demo   install into .venv and watch the service learn (under 3 minutes after installation)
# make test   install into .venv and run every check
# Needs Python 3.11 or newer, make, and a package index. See README.md for GPU machines.

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo "$$python" && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGES := insitu producers/insitu_producers service/insitu_service
SOURCES := $(PACKAGES) tests

# The stamp is newer than what it was installed from; a second `make` starts at once.
STAMP := $(VENV)/.installed

.PHONY: help install demo test lint types imports pytest format docs bench chaos chaos-long clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## make the virtual environment and install everything

$(STAMP): pyproject.toml deploy/constraints.txt deploy/install
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found; give one: make PYTHON=..." >&2; exit 1; }
	deploy/install "$(PYTHON)" "$(VENV)"
	@touch $@

demo: $(STAMP) ## watch the service learn from real images and a real simulation
	$(BIN)/python -m insitu_service.demo

test: lint types imports pytest ## every check: ruff, mypy, import-linter, pytest

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(STAMP) ## mypy --strict
	$(BIN)/mypy

imports: $(STAMP) ## who may import whom
	$(BIN)/lint-imports

pytest: $(STAMP) ## the tests and all examples in the documentation
	$(BIN)/python -m pytest

format: $(STAMP) ## write the code in the house's format
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

docs: $(STAMP) ## write the generated tables of README.md and insitu/docs/
	$(BIN)/python -m insitu_service.documentation --write

bench: $(STAMP) ## measure against the floors (quiet machine, about ten minutes)
	$(BIN)/python -m pytest -m benchmark -s tests/benchmarks

chaos: $(STAMP) ## break real processes for some minutes; prints the books and the figures
	cd tests && ../$(BIN)/python -m chaos short

chaos-long: $(STAMP) ## the same at length: hundreds of kills, millions of messages, a soak (hours)
	cd tests && ../$(BIN)/python -m chaos long $(if $(SCALE),--scale $(SCALE))

clean: ## remove the virtual environment, caches and the demo's output
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build demo-output
