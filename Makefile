# Every target builds the environment first if need be. `make help` says what each costs.
#   PROFILE  quick (default), cpu, lite, paper      DEVICE  cpu (default), cuda
#   TABLE    all (default: the paper's), evidence, related, or a name; a wrong one lists them
#   DATASET, MODEL, BITS, SEEDS  a part of a table: cifar100, vgg13, 2 (bits), 1 (seed)
#   JOBS     processes at a time; 0 chooses         EXECUTOR  a cluster: dask://HOST:PORT, slurm (docs/clusters.md)
#   RECORD=1 work on the committed records in results/ instead of build/

PROFILE ?= quick
DEVICE ?= cpu
TABLE ?= all
JOBS ?= 0
EXECUTOR ?=
DATASET ?=
MODEL ?=
BITS ?= 0
SEEDS ?= 0
RECORD ?=
VECTOR ?=

VENV := .venv
FIGURES_VENV := .venv-figures
# To use an environment of your own (conda, for example): make PYTHON=python reproduce
PYTHON ?= $(VENV)/bin/python
BOOTSTRAP ?= python3
PAPERLIB := "$(PYTHON)" -m paperlib
PART := $(if $(DATASET),--dataset $(DATASET)) $(if $(MODEL),--model $(MODEL)) --bits $(BITS) --seeds $(SEEDS)
READY_FIGURES := $(if $(filter $(VENV)/bin/python,$(PYTHON)),$(if $(wildcard $(VENV)/.ready),,$(FIGURES_VENV)/.ready))
# `make figures` takes the whole environment where it is there, else a small one without torch.
FIGURES_PYTHON := $(if $(READY_FIGURES),$(FIGURES_VENV)/bin/python,$(PYTHON))
READY := $(if $(filter $(VENV)/bin/python,$(PYTHON)),$(VENV)/.ready)

.DEFAULT_GOAL := help
.PHONY: help env reproduce run status compare figures notebooks bench lab lint test test-tools storm test-oldest docs lock clean

help:  ## this list
	@echo "make TARGET [PROFILE=$(PROFILE)] [DEVICE=$(DEVICE)] [TABLE=$(TABLE)] [DATASET=] [MODEL=] [BITS=$(BITS)] [SEEDS=$(SEEDS)] [JOBS=$(JOBS)] [EXECUTOR=] [RECORD=1]"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

env: $(VENV)/.ready  ## the environment in .venv: 2 to 5 minutes, 6 GB

$(VENV)/.ready: requirements.lock pyproject.toml
	$(BOOTSTRAP) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	$(BOOTSTRAP) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

$(FIGURES_VENV)/.ready: requirements-figures.lock pyproject.toml
	$(BOOTSTRAP) -m venv $(FIGURES_VENV)
	$(FIGURES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-figures.lock
	$(FIGURES_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

reproduce: $(READY)  ## notebooks through papermill into build/PROFILE, then compare: quick 5 to 11 minutes, cpu days on 2 cores (resumable)
	$(PAPERLIB) reproduce --profile $(PROFILE) --device $(DEVICE) --table $(TABLE) $(PART) --jobs $(JOBS) $(if $(EXECUTOR),--executor "$(EXECUTOR)") $(if $(RECORD),--record)

run: $(READY)  ## the same runs without notebooks
	$(PAPERLIB) run --profile $(PROFILE) --device $(DEVICE) --table $(TABLE) $(PART) --jobs $(JOBS) $(if $(EXECUTOR),--executor "$(EXECUTOR)") $(if $(RECORD),--record)

status: $(READY)  ## what a profile has, lacks, or has to make again: seconds
	@$(PAPERLIB) status --profile $(PROFILE) --table $(TABLE) $(PART) $(if $(RECORD),--record)

compare: $(READY)  ## your tables beside the committed ones: seconds
	$(PAPERLIB) compare --profile $(PROFILE)

figures: $(READY_FIGURES)  ## every table and figure of results/ from the committed records, without torch: seconds; VECTOR=pdf or svg too
	"$(FIGURES_PYTHON)" -m paperlib figures $(if $(VECTOR),--vector $(VECTOR))

notebooks: $(READY)  ## execute the committed notebooks in place on the committed records: a minute
	$(PAPERLIB) notebooks

bench: $(READY)  ## our speed beside a plain baseline and the limit of this machine, into results/bench: 36 minutes on 2 cores
	"$(PYTHON)" -m bench --device $(DEVICE)

lab: $(READY)  ## JupyterLab
	"$(PYTHON)" -m jupyterlab notebooks

lint: $(READY)  ## ruff, the layers' contract, types of the public face: seconds
	"$(PYTHON)" -m ruff check .
	"$(PYTHON)" -m ruff format --check .
	"$(PYTHON)" -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	"$(PYTHON)" -m mypy

# Two processes of one thread: a test file, and a notebook, stays whole in one of them.
WORKERS ?= 2
test: $(READY)  ## pytest, doctests and the nbval check of every notebook: 5 to 10 minutes on 2 cores
	"$(PYTHON)" -m pytest -n $(WORKERS) --dist loadscope
	"$(PYTHON)" -m pytest -n $(WORKERS) --dist loadscope --nbval --nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider notebooks

test-tools: $(READY)  ## tests that start other programs, a Dask cluster and Chromium: 2 to 5 minutes on 2 cores
	"$(PYTHON)" -m pytest -n $(WORKERS) --dist loadscope tests/tools

storm: $(READY)  ## kills, bit flips, full disks, dying workers: is anything finished lost? 9 minutes on 2 cores
	"$(PYTHON)" tests/storm.py

test-oldest:  ## the tests on the oldest versions that pyproject.toml allows (needs uv): 10 minutes, 6 GB
	uv venv --quiet --clear --python 3.11 build/oldest
	uv pip install --quiet --python build/oldest/bin/python --resolution lowest-direct -e '.[test,export]'
	build/oldest/bin/python -m pytest -n $(WORKERS) --dist loadscope

docs: $(READY)  ## the documentation as a site in build/site: seconds
	"$(PYTHON)" -m mkdocs build --strict

COMPILE := uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --quiet
lock:  ## write both locks anew from pyproject.toml (needs uv)
	$(COMPILE) pyproject.toml --extra export --extra cluster --extra test --extra tools --extra docs --output-file requirements.lock
	$(COMPILE) --group figures --constraint requirements.lock --output-file requirements-figures.lock

clean:  ## remove build/, not the environment
	rm -rf build
