# Every target sets the environment up on first use (vllm/install.sh ends at once when it is there).
PYTHON ?= python3
VENV := .venv
MODEL := exported_models/Llama-3.2-1B-Instruct
TRACE ?= trace.jsonl
HOST ?= localhost
PORT ?= 8000
PYTEST = $(VENV)/bin/python -m pytest

.PHONY: setup serve test test-all lint format bench parity clean

setup:
	@PYTHON=$(PYTHON) vllm/install.sh $(VENV)

serve: setup
	VLLM_SIM_TRACE_PATH=$(TRACE) $(VENV)/bin/python -m vllm.entrypoints.openai.api_server --model $(MODEL) \
	    --tokenizer $(MODEL) --served-model-name meta-llama/Llama-3.2-1B-Instruct --device cpu --max-model-len 4096 \
	    --max-num-seqs 4 --block-size 8 --host $(HOST) --port $(PORT)

test: setup
	$(PYTEST) -m "not slow and not bench"

test-all: setup
	$(PYTEST) -m "not bench"

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
	@PYTHON=$(PYTHON) parity/install.sh $(VENV)-parity
	$(VENV)/bin/python -m parity $(PARITY)

clean:
	rm -rf $(VENV) $(VENV)-parity build *.egg-info
