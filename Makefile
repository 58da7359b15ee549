# Tallystick. `make` alone lists the targets.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PORT ?= 8000
.DEFAULT_GOAL := help
.PHONY: help run test check fix bench migration lock docs clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# A marker file a lock file: set-up runs once, and again when the lock changes.
$(VENV)/.run-ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Tallystick needs Python 3.11 or newer; set PYTHON=" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	@touch $@

$(VENV)/.test-ready: requirements-dev.lock $(VENV)/.run-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

run: $(VENV)/.run-ready ## Set everything up, load the demo network once, serve on http://127.0.0.1:8000 (PORT= changes it)
	@TALLYSTICK_PORT=$(PORT) exec $(BIN)/tallystick serve --demo

test: $(VENV)/.test-ready ## Run the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadgroup

check: $(VENV)/.test-ready ## Format, lint, types, import contracts, dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/deptry .

fix: $(VENV)/.test-ready ## Format and mend what can be mended by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.test-ready ## Measure; results land in benchmarks/results
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

migration: $(VENV)/.test-ready ## Write a migration from the models: make migration m="add a column"
	$(BIN)/python -m server.migrate "$(m)"

lock: $(VENV)/.test-ready ## Resolve the lock files again (versions and hashes, no addresses)
	$(BIN)/uv pip compile pyproject.toml --group build --generate-hashes --python-version 3.11 --no-header --no-annotate --quiet -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml --group dev --generate-hashes --python-version 3.11 --no-header --no-annotate --quiet -o requirements-dev.lock

clean: ## Remove the virtual environment and caches; the data under var/ stays
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .import_linter_cache .hypothesis
