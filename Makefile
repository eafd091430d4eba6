# `make train` and `make test` work as the first command in a fresh clone, and are quick again.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
EXTRAS ?= dev
comma := ,
empty :=
space := $(empty) $(empty)
INSTALLED := $(VENV)/.installed-$(subst $(comma),-,$(EXTRAS))
COUNT ?= 200
WORKDIR ?= runs/mnist1d_cnn

.PHONY: train test test-slow lint results bench faults clean

train: $(INSTALLED)
	@$(RUN) -m experiments.train --config=configs/mnist1d.py:cnn --workdir=$(WORKDIR)

test: $(INSTALLED) lint
	@$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(INSTALLED)
	@$(RUN) -m pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .
	@$(RUN) -m mypy

# Measures what the headers of configs/ promise: all, or ROWS="digits mnist1d_paper:cnn".
results: $(INSTALLED)
	@$(RUN) -m experiments.results --rows=$(subst $(space),$(comma),$(strip $(ROWS)))

# Kills, damages and starves COUNT runs, and writes what came of it to docs/reliability.md.
faults: $(INSTALLED)
	@$(RUN) -m experiments.faults --count=$(COUNT) --page=docs/reliability.md

bench: $(INSTALLED)
	@$(RUN) -m experiments.benchmarks.loop

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	  echo 'nn_lib needs Python 3.11, 3.12 or 3.13: install one and name it, as in "make train PYTHON=python3.12"' >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo 'this Python cannot make virtual environments: install its venv package (python3-venv on Debian and Ubuntu)' >&2; exit 1; }
	@echo 'installing into $(VENV): about a minute, once'
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@
