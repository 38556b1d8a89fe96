# Every target sets the environment up on first use (vllm/install.sh ends at once when it is there).
# VLLM=0.33.0 takes another version of vLLM than the pinned one, in an environment of its own.
PYTHON ?= python3
PINNED := $(shell cat vllm/VERSION)
VLLM ?= $(PINNED)
VENV := .venv$(if $(filter-out $(PINNED),$(VLLM)),-$(VLLM))
MODEL := exported_models/Llama-3.2-1B-Instruct
TRACE ?= trace.jsonl
HOST ?= localhost
PORT ?= 8000
PYTEST = $(VENV)/bin/python -m pytest
# Files are given out in the order of their names. One process more than two cores: tests wait for servers and commands.
JOBS ?= 3
PARALLEL = -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations=25

.PHONY: setup serve test test-all lint format bench parity upgrade study report docs clean

setup:
	@PYTHON=$(PYTHON) VLLM=$(VLLM) vllm/install.sh $(VENV)

serve: setup
	VLLM_SIM_TRACE_PATH=$(TRACE) $(VENV)/bin/python -m vllm.entrypoints.openai.api_server --model $(MODEL) \
	    --tokenizer $(MODEL) --served-model-name meta-llama/Llama-3.2-1B-Instruct --device cpu --max-model-len 4096 \
	    --max-num-seqs 4 --block-size 8 --host $(HOST) --port $(PORT)

test: setup
	$(PYTEST) $(PARALLEL) -m "not slow and not bench"

# Ray is there for the test of sweeps on a cluster alone, Chromium for those of the page, Prometheus for the dashboard's.
test-all: setup
	@for tool in chromium prometheus; do command -v $$tool > /dev/null \
	    || (apt-get update && apt-get install -y $$tool) > /dev/null 2>&1 \
	    || echo "no $$tool, and none could be installed: its tests are skipped"; done
	@$(VENV)/bin/python -m pip install -q ray==2.60.0
	$(PYTEST) $(PARALLEL) -m "not bench" --hypothesis-profile=all

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: setup
	$(PYTEST) -m bench -s benchmarks

parity: setup
	@PYTHON=$(PYTHON) parity/install.sh .venv-parity
	$(VENV)/bin/python -m parity $(PARITY)

# What holds on another version, in results/upgrade-VERSION.json: make upgrade VLLM=0.33.0
upgrade:
	@PYTHON=$(PYTHON) VLLM=$(PINNED) vllm/install.sh .venv
	PYTHON=$(PYTHON) .venv/bin/python -m parity.upgrade --vllm $(VLLM) $(UPGRADE)

# All studies from nothing; finished rows are kept, so a run that was killed goes on. QUICK=1: small ones in data/quick.
QUICK_FLAG := $(if $(QUICK),--quick)
REPORT_MIXES := report_even report_agents report_chat report_scan report_shift
STUDY_DATA := $(if $(QUICK),data/quick,data/sharegpt)
STUDY_OUT := $(if $(QUICK),data/quick/,)
STUDY_TO := --results $(STUDY_OUT)results --out $(STUDY_OUT)figures
study: setup
	@echo "1/14 ShareGPT"; $(VENV)/bin/python milestone2_code/download_sharegpt.py
	@echo "2/14 study one: traces"; $(VENV)/bin/python milestone2_code/preprocess_sharegpt.py --out $(STUDY_DATA) \
	    --conversations $(if $(QUICK),200,2500)
	@cp -n data/sharegpt/source.json $(STUDY_DATA)/ 2>/dev/null || true
	@echo "3/14 study one: replays"; $(VENV)/bin/python milestone2_code/compare_multi_vs_single_turn.py \
	    --data $(STUDY_DATA) --out $(STUDY_OUT)results $(QUICK_FLAG)
	@echo "4/14 study one: plots"; $(VENV)/bin/python milestone2_code/visualize_task2.py $(STUDY_TO)
	@$(VENV)/bin/python milestone2_code/visualize_task2_advance.py $(STUDY_TO)
	@echo "5/14 study two: mixes"; $(VENV)/bin/python milestone3_code/build_mixes.py \
	    $(if $(QUICK),report_agents --seeds 2,$(REPORT_MIXES) --seeds 10)
	@echo "6/14 study two: replays"; $(VENV)/bin/python milestone3_code/compare_policies.py \
	    --out $(STUDY_OUT)results $(QUICK_FLAG)
	@echo "7/14 study two: plots"; $(VENV)/bin/python milestone3_code/visualize_task3.py $(STUDY_TO)
	@$(VENV)/bin/python milestone3_code/visualize_task3_advance.py $(STUDY_TO)
	@echo "8/14 what hybrid models hit"; $(VENV)/bin/python milestone3_code/compare_hybrids.py \
	    --out $(STUDY_OUT)results $(QUICK_FLAG)
	@$(VENV)/bin/python milestone3_code/visualize_hybrids.py $(STUDY_TO)
	@echo "9/14 GPU memory against CPU memory"; $(VENV)/bin/python milestone3_code/compare_tiers.py \
	    --out $(STUDY_OUT)results $(QUICK_FLAG)
	@$(VENV)/bin/python milestone3_code/visualize_tiers.py $(STUDY_TO)
	@echo "10/14 what hints are worth"; $(VENV)/bin/python milestone3_code/build_mixes.py report_agents \
	    $(if $(QUICK),--seeds 2,report_chat report_even report_scan report_shift --seeds 5)
	@$(VENV)/bin/python milestone3_code/compare_hints.py --out $(STUDY_OUT)results $(QUICK_FLAG)
	@$(VENV)/bin/python milestone3_code/visualize_hints.py $(STUDY_TO)
	@echo "11/14 study three: mixes"; $(VENV)/bin/python milestone3_code/build_mixes.py report_agents \
	    $(if $(QUICK),--seeds 2,report_chat --seeds 4)
	@echo "12/14 study three: replays"; $(VENV)/bin/python milestone3_code/compare_routers.py \
	    --out $(STUDY_OUT)results $(QUICK_FLAG)
	@echo "13/14 study three: plots"; $(VENV)/bin/python milestone3_code/visualize_routing.py $(STUDY_TO)
ifdef QUICK
	@echo "14/14 no table and no report: they take no rows of a quick run"
else
	@echo "14/14 table and report"; $(VENV)/bin/python -m report.readme
	@$(MAKE) report
endif

# The technical report from the rows and figures that are there.
report: setup
	$(VENV)/bin/python -m report --pdf report.pdf

# The manual, into site/, by a small environment of its own: mkdocs is no part of what runs the project.
DOCS_VENV := .venv-docs
docs: $(DOCS_VENV)/.complete
	$(DOCS_VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

$(DOCS_VENV)/.complete: docs/requirements.txt
	$(PYTHON) -m venv --clear $(DOCS_VENV)
	$(DOCS_VENV)/bin/python -m pip install --quiet --no-deps -r docs/requirements.txt
	@touch $@

clean:
	rm -rf .venv .venv-* build site *.egg-info
