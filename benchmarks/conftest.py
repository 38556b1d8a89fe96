"""Benchmarks run in one process, and vLLM chooses its platform once, when it is first imported: the simulator's."""

import os

import pytest

from benchmarks.rows import Measured, Measurement, keep
from tests.serving import ROOT

# Those that start an engine put their own trace here.
os.environ["VLLM_SIM_TRACE_PATH"] = str(ROOT / "trace.jsonl")


@pytest.fixture
def measured() -> Measured:
    """Writes a measurement to results/bench.json, whether it keeps its bar or not, and fails where it does not."""

    def measured(found: Measurement) -> None:
        row = keep(found)
        print(f"\n{row.what}: {row.value:.4g} {row.unit} ({row.bar() or 'no bar'})", end="")
        for name, value in row.parts.items():
            print(f"\n    {name}: {value:,.4g}", end="")
        assert row.holds(), f"{row.name} is {row.value:.4g} {row.unit}; allowed: {row.bar()}"

    return measured
