# `make demo` and `make test` do all the set-up on a fresh machine: Python 3.11, 3.12 or 3.13 and nothing else.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo
WORKERS ?= 2
# The build for the CPU alone, by its name: an open `torch` fetches the newest with CUDA, several GB for a few small tests. Where no
# such build is to be had, TORCH=torch takes what there is.
TORCH ?= torch==2.13.0+cpu
export JAX_PLATFORMS ?= cpu
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help install demo demo-cot demo-ablation test check peers parity quick clean

help:  ## lists the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/'

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

demo-cot: install  ## trains with and without rationales, asks both the same held-out rows, and writes a report
	for run in cot noncot; do \
		mixture=$$([ $$run = cot ] && echo cot || echo flan2022_noncot_only); \
		$(BIN)/flan train --gin_file=recipes/cot_demo.gin --tfds_data_dir=sample --gin.MODEL_DIR="'runs/$$run'" \
			--gin.MIXTURE_OR_TASK_NAME="'$$mixture'" && \
		$(BIN)/flan eval --gin_file=recipes/cot_demo_eval.gin --tfds_data_dir=sample \
			--gin.CHECKPOINT_PATH="'runs/$$run'" --gin.EVAL_OUTPUT_DIR="'runs/$$run/eval'" || exit 1; done
	$(BIN)/flan report runs/cot/eval runs/noncot/eval --out runs/cot_report

demo-ablation: install  ## four ablations in the small world, one seed and two arms each, with figures and reports
	test -f runs/small_world/vocabulary.model || $(BIN)/flan data small-world --out runs/small_world
	for name in clusters instructions cot scale; do \
		$(BIN)/flan ablate --gin_file=gin/ablations/$$name.gin --quick --jobs $(WORKERS) || exit 1; done

test: install  ## runs the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

check: install  ## ruff, pyright, import rules and templates
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/python -m pytest tests/test_architecture.py
	$(BIN)/flan check-templates

# What others' code says of the same weights and rows. These tests are skipped where torch, transformers and lm-eval are not there.
PARITY := tests/inference/test_transformers.py tests/checkpoint/test_hugging_face.py tests/checkpoint/test_families.py \
	tests/evaluation/test_lm_eval_adapter.py

$(VENV)/peers: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' -e '.[test,dev,parity,lm-eval]'
	@touch $@

peers: $(VENV)/peers  ## adds torch, transformers and lm-eval to .venv

parity: peers  ## holds models, decoding and scores against transformers and lm-evaluation-harness
	$(BIN)/python -m pytest $(PARITY)

quick: install  ## imports, goldens and ten training steps: what a second Python version is tried with
	$(BIN)/python -m pytest tests/test_architecture.py tests/models tests/training/test_optim.py tests/e2e/test_ten_steps.py

clean:  ## removes what the other targets made
	rm -rf .venv* runs build *.egg-info
