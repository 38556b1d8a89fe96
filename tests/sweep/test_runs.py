"""A run's row is the summary of the replay with the same settings."""

import json
from pathlib import Path

import pytest

from tests.making import settings, small_trace
from vllm_sim.replay.files import replay
from vllm_sim.replay.latency import LatencyTable
from vllm_sim.sweep.runs import GridRun, make_row, row_key


@pytest.mark.parametrize("policy", ["lru", "arc", "belady"])
def test_row_of_a_run_is_the_summary_of_a_replay(policy: str, tmp_path: Path) -> None:
    trace, how = small_trace(tmp_path), settings(policy=policy, warmup=0.3)
    row = make_row(GridRun(trace, how))
    assert row == replay(trace, tmp_path / "out", how).to_row()
    assert 0 < row["hit_tokens"] < row["prompt_tokens"]


def test_key_of_a_run_changes_with_the_trace_and_each_setting(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    others = [{"policy": "arc"}, {"capacity_blocks": 41}, {"block_size": 8}, {"seed": 1}, {"warmup": 0.1}]
    keys = {row_key(GridRun(trace, settings(**values))) for values in [{}, *others]}
    keys.add(row_key(GridRun(trace, settings(capacity_blocks="all"))))
    trace.write_text(trace.read_text().replace('"output_length": 5', '"output_length": 6'))
    keys.add(row_key(GridRun(trace, settings())))
    assert len(keys) == len(others) + 3


def test_key_of_a_run_holds_what_is_in_a_latency_table(tmp_path: Path) -> None:
    trace, keys = small_trace(tmp_path), []
    for base_ms in (1.0, 1.0, 2.0):
        table = LatencyTable(base_ms, 1.0, 1.0, 1.0)
        how = settings(backend="engine", latency_model="table", latency_table=table)
        keys.append(row_key(GridRun(trace, how)))
    assert keys[0] == keys[1] != keys[2]


def test_whole_curve_equals_the_single_runs(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    curve = make_row(GridRun(trace, settings(capacity_blocks="all")))["curve"]
    assert len(curve["capacity_blocks"]) > 5
    rates = ("token_hit_rate", "block_hit_rate", "request_hit_rate")
    for place, capacity in enumerate(curve["capacity_blocks"]):
        row = make_row(GridRun(trace, settings(capacity_blocks=capacity)))
        assert [row[name] for name in rates] == pytest.approx([curve[name][place] for name in rates], abs=2e-6)


def test_whole_curve_of_another_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="exact for LRU alone"):
        make_row(GridRun(small_trace(tmp_path), settings(policy="arc", capacity_blocks="all")))


def test_row_survives_json(tmp_path: Path) -> None:
    row = make_row(GridRun(small_trace(tmp_path), settings()))
    assert json.loads(json.dumps(row)) == row
