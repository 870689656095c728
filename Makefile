# `make demo` and `make test` do all the set-up on a fresh machine: Python 3.11, 3.12 or 3.13 and nothing else.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
WORKERS ?= 2
export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help install demo test check quick clean

help:  ## lists the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /\t/'

# Anew when what is installed changes; the stamp makes the second call free.
$(VENV)/installed: setup.py
	@test -n "$(PYTHON)" || { echo "no Python 3.11, 3.12 or 3.13 found; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev]'
	@touch $@

install: $(VENV)/installed  ## makes .venv with flan_jax and its tools

demo: install  ## trains on the embedded sample with NLI held out, then evaluates NLI
	$(BIN)/flan train --gin_file=recipes/demo.gin --tfds_data_dir=sample --gin.MODEL_DIR="'$(RUN)'"
	$(BIN)/flan eval --gin_file=recipes/demo_eval.gin --tfds_data_dir=sample \
		--gin.CHECKPOINT_PATH="'$(RUN)'" --gin.EVAL_OUTPUT_DIR="'$(RUN)/eval'"
	$(BIN)/python scripts/plot_run.py $(RUN)

test: install  ## runs the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: install  ## ruff, pyright, import rules and templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_architecture.py
	$(BIN)/flan check-templates

quick: install  ## imports, goldens and ten training steps: what a second Python version is tried with
	$(BIN)/python -m pytest tests/test_architecture.py tests/models tests/training/test_optim.py tests/e2e/test_ten_steps.py

clean:  ## removes what the other targets made
	rm -rf .venv* runs build *.egg-info
