# Everything a person, the continuous integration and the README do, under one name each.
# `make demo` and `make test` set up what they need on a fresh clone; nothing is installed by hand.

PYTHON ?= python3
VENV   ?= .venv
CONFIG ?= pipelines/configs/adult.yaml
RUN    ?= runs/adult
ARGS   ?=

BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
LOCK  := requirements.lock
# All extras for running the software; components/images/install.sh takes the same ones.
EXTRAS := eval,train,pretrained,ray,tracking,kfp,serve,client,s3,gcs
# What `make test` leaves out: long tests, and tests that need a GPU, a browser, or start a Ray
# instance.
TESTS := not slow and not gpu and not ray and not browser

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-ray test-page check format bench docs lock images images-check clean

help:  ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Create .venv with the locked versions (only when they changed)

# The lock is a constraints file: pip takes exactly these versions, from whatever index and cache
# it is configured to use.
$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, but $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
	       "Name another one: make setup PYTHON=python3.12"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c $(LOCK) -e '.[eval,train,pretrained,ray,tracking,kfp,serve,client,dev]'
	@touch $@

demo: setup  ## Adult from table to report: all six stages, then open the report
	$(BIN)/difflm run $(CONFIG) --output $(RUN) $(ARGS)
	$(BIN)/difflm report $(RUN) --open

test: setup  ## Fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "$(TESTS)" $(ARGS)

test-slow: setup  ## The tests that `make test` leaves out, on this machine
	$(BIN)/python -m pytest -m "slow and not gpu and not ray" $(ARGS)

test-ray: setup  ## The tests that start an embedded Ray, or groups of processes; loopback only
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "ray and not gpu" tests/ray tests/distributed tests/serve $(ARGS)

test-page: setup  ## The tests of the service's page (needs Chromium and playwright)
	$(BIN)/python -m pytest -m browser tests/serve $(ARGS)

check: setup  ## Lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

format: setup  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## Quality on the five tables of the results; DATA=folder of the UCI files (hours)
	$(BIN)/python benchmarks/quality.py adult magic beijing default shoppers --data $(DATA) \
	  --report $(ARGS)

docs: setup  ## Write docs/config.md from the configuration model
	$(BIN)/difflm config docs > docs/config.md

lock: setup  ## Write requirements.lock: the versions in .venv, and those of the other extras
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > $(VENV)/installed.txt
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --dry-run --ignore-installed \
	  --report $(VENV)/lock.json -c $(VENV)/installed.txt '.[$(EXTRAS),dev]'
	$(BIN)/python .ci/lock.py $(VENV)/lock.json $(LOCK)

images:  ## Build the container images; ARGS=--help shows the options (needs Docker)
	components/images/build.sh $(ARGS)

images-check: setup  ## What an image would install, installed and started here (minutes; no Docker)
	$(BIN)/python -m pytest -m slow tests/images $(ARGS)

clean:  ## Remove the virtual environment and caches (runs are kept)
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build *.egg-info
