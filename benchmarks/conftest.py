"""Benchmarks run in one process, and vLLM chooses its platform once, when it is first imported: the simulator's."""

import os

from tests.serving import ROOT

# Those that start an engine put their own trace here.
os.environ["VLLM_SIM_TRACE_PATH"] = str(ROOT / "trace.jsonl")
