"""The canary of hybrid models: this vLLM gives the rows that are stored, and a row that is another one is noticed."""

import json
from pathlib import Path

import pytest
from vllm.model_executor.models import registry

from parity.canary import CAPACITIES, ROWS, make_trace, options
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.replay.expect import differences, read_expected
from vllm_sim.replay.files import replay

SLOW = ("gemma-3-27b", "gemma-4-31b", "llama-4-scout", "qwen3.6-35b-a3b", "falcon-h1-7b")


@pytest.mark.parametrize(
    "model", [pytest.param(model, marks=[pytest.mark.slow] if model in SLOW else []) for model in CAPACITIES]
)
def test_a_hybrid_hits_what_it_hit(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())
    monkeypatch.setenv(TRACE_VARIABLE, "set by the replay, and put back after it")
    summary = replay(make_trace(tmp_path / "canary.jsonl"), tmp_path / "run", options(model, tmp_path))
    expected = ROWS / f"{model}.jsonl"
    stored = read_expected(expected)
    assert differences(expected, stored, summary) == []
    assert summary.hit_tokens > 0
    assert summary.evicted_blocks > 0
    other = stored | {"hit_tokens": stored["hit_tokens"] - 1}
    assert differences(expected, other, summary) == [
        f"hit_tokens is {summary.hit_tokens}, expected {other['hit_tokens']}"
    ]


def test_each_row_is_one_of_its_model() -> None:
    assert {path.stem for path in ROWS.glob("*.jsonl")} == set(CAPACITIES)
    for path in ROWS.glob("*.jsonl"):
        (line,) = path.read_text().splitlines()
        assert json.loads(line)["model"] == path.stem
