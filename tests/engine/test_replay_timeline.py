"""The timeline of a run, read as Perfetto reads it; and the clock of the latency model `table`."""

import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from tests.engine.test_replay import conversations, rows_of, settings, write
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.replay.config import config_of
from vllm_sim.replay.files import replay
from vllm_sim.replay.latency import LatencyTable


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    return write(tmp_path_factory.mktemp("replay") / "conversations.jsonl", conversations(12, 5, seed=1))


def assert_slices_nest(slices: list[dict[str, Any]]) -> None:
    """On one track, a slice that begins within another one ends within it; in nanoseconds."""
    open_ends: list[int] = []
    for one in sorted(slices, key=lambda one: (one["ts"], -one["dur"])):
        start, end = round(one["ts"] * 1000), round((one["ts"] + one["dur"]) * 1000)
        while open_ends and open_ends[-1] <= start:
            open_ends.pop()
        assert not open_ends or end <= open_ends[-1], one
        if end > start:
            open_ends.append(end)


@pytest.mark.parametrize("async_scheduling", [False, True])
def test_slices_nest_and_steps_hold_every_computed_token(trace: Path, tmp_path: Path, async_scheduling: bool) -> None:
    path = tmp_path / "timeline.json"
    options = settings(max_num_seqs=4, async_scheduling=async_scheduling, capacity_blocks=200)
    summary = replay(trace, tmp_path / "out", options, timeline=path)
    assert summary.preemptions == 0
    events = json.loads(path.read_text())["traceEvents"]
    tracks = defaultdict(list)
    for event in events:
        assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            tracks[event["pid"], event["tid"]].append(event)
    for slices in tracks.values():
        assert_slices_nest(slices)
    steps = tracks[1, 1]
    for before, after in itertools.pairwise(steps):
        assert before["ts"] + before["dur"] <= after["ts"] + 0.002
    computed = sum(step["args"]["tokens"] for step in steps)
    if not async_scheduling:
        assert computed == summary.slots_filled
    else:  # a token more where a step was scheduled for a request that ends with the one before it
        assert 0 <= computed - summary.slots_filled <= summary.requests
    rows = rows_of(tmp_path / "out")
    outer = {event["args"]["row"]: event for event in events if event["name"].startswith("row ")}
    assert len(outer) == len(rows)
    for row in rows:
        assert outer[row["row"]]["ts"] == pytest.approx(row["arrival_ms"] * 1000)
    phases = [event["name"] for event in events if event["pid"] == 2 and event["ph"] == "X"]
    assert {name: phases.count(name) for name in ("queued", "prefill", "decode")} == dict.fromkeys(
        ("queued", "prefill", "decode"), len(rows)
    )
    usage = [event["args"]["value"] for event in events if event["name"] == "cache usage"]
    assert len(usage) == len(steps)
    assert 0 < max(usage) <= 1


@pytest.mark.usefixtures("trace")
def test_rejected_request_is_a_moment_and_a_timeline_needs_the_engine(tmp_path: Path) -> None:
    rows = [{"prompt_token_ids": list(range(n)), "output_length": 2, "timestamp": 0} for n in (20, 900)]
    trace = write(tmp_path / "two.jsonl", rows)
    replay(trace, tmp_path / "out", settings(), timeline=tmp_path / "t.json")
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert [event["ph"] for event in events if event["name"] == "rejected row 1"] == ["i"]
    with pytest.raises(ValueError, match="backend fast has no time"):
        replay(trace, tmp_path / "out", settings(backend="fast"), timeline=tmp_path / "t.json")


@pytest.mark.usefixtures("trace")
def test_clock_of_a_table_is_the_sum_of_its_steps(tmp_path: Path) -> None:
    table = {"base_ms": 5, "prefill_request_ms": 1, "prefill_token_ms": 0.5, "decode_request_ms": 0.25}
    row = {"prompt_token_ids": list(range(20)), "output_length": 5, "finish_reason": "length", "timestamp": 100}
    trace = write(tmp_path / "one.jsonl", [row])
    options = settings(latency_model="table", latency_table=LatencyTable(**table))
    summary = replay(trace, tmp_path / "out", options)
    (found,) = rows_of(tmp_path / "out")
    assert found["first_token_ms"] == 100 + 5 + 1 + 20 * 0.5
    assert found["end_ms"] == found["first_token_ms"] + 4 * 5.25
    assert config_of(summary.to_row(), options.model) == replace(options, max_model_len=26)
    for values, reason in (
        ({"latency_model": "table"}, "without a table"),
        ({"latency_table": LatencyTable(**table)}, "with"),
    ):
        with pytest.raises(ValueError, match=f"{reason}.*--latency-file"):
            settings(**values)
