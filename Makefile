# make run   installs into .venv and runs the quickstart; make test installs and runs the tests; make lint checks style;
# make docs builds the manual into site/.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
EXP ?= quickstart
TORCH = 2.13.0
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test lint docs lock clean

run: $(VENV)/.run
	$(BIN)/python -m sweeps.run +exp=$(EXP)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean
	@echo 'open site/index.html, or: $(BIN)/python -m http.server --bind 127.0.0.1 --directory site   (its search box works)'

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.lock
	$(PIP) -r requirements-dev.lock
	touch $@

$(VENV)/.docs: $(VENV)/.run requirements-docs.lock
	$(PIP) -r requirements-docs.lock
	touch $@

# Resolve again from pyproject.toml, in an environment of its own. torch's CUDA packages are left to torch's own pins, so
# that one lock serves its CPU and CUDA builds.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet setuptools torch==$(TORCH) . && .venv-lock/bin/python -m pip freeze --all --exclude kmr-sweeps --exclude pip | grep -vE '^(nvidia-|cuda-|triton)' | sed 's/^\(torch==[0-9.]*\)+.*/\1/' > requirements.lock
	.venv-lock/bin/python -m pip install --quiet '.[dev]'
	{ echo '-r requirements.lock'; .venv-lock/bin/python -m pip freeze --all --exclude kmr-sweeps --exclude pip | grep -vE '^(nvidia-|cuda-|triton)' | grep -vxFf requirements.lock; } > requirements-dev.lock
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet -r requirements.lock && .venv-lock/bin/python -m pip install --quiet '.[docs]'
	{ echo '-r requirements.lock'; .venv-lock/bin/python -m pip freeze --all --exclude kmr-sweeps --exclude pip | grep -vE '^(nvidia-|cuda-|triton)' | sed 's/^\(torch==[0-9.]*\)+.*/\1/' | grep -vxFf requirements.lock; } > requirements-docs.lock
	rm -rf .venv-lock build *.egg-info

clean:
	rm -rf $(VENV) .venv-lock build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
