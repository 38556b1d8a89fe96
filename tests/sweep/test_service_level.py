"""Service levels as they are written, and the shares of a trace that replicas serve."""

import json
from pathlib import Path

import pytest

from vllm_sim.sweep.replicas import split_sessions
from vllm_sim.sweep.service_level import failures, parse_level, worst
from vllm_sim.trace.files import iter_records

ROW = {"ttft_ms_p99": 900.0, "tpot_ms_p99": 55.0, "rejected_requests": 0}


def test_terms_have_units_and_a_row_meets_them_or_not() -> None:
    level = parse_level("ttft_p99<=1s, tpot_p99<=50ms")
    assert [(bound.field, bound.most_ms) for bound in level] == [("ttft_ms_p99", 1000), ("tpot_ms_p99", 50)]
    assert failures(level, ROW) == ["tpot_p99 is 55.0 ms, wanted 50.0"]
    assert worst(level, ROW) == 1.1
    assert failures(level, ROW | {"tpot_ms_p99": None}) == []  # each request generates one token
    assert failures(level[:1], ROW | {"rejected_requests": 2}) == ["2 requests need more blocks than there are"]


@pytest.mark.parametrize(
    "text", ["", "ttft<=1s", "ttft_p95<=1s", "ttft_p99<1s", "ttft_p99<=1", "rate_p99<=1s", "ttft_p99<=0s"]
)
def test_what_is_no_level_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"service level has '.*'; allowed: ttft, tpot, e2e with _p50, _p90, _p99"):
        parse_level(text)


def test_a_metric_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="names a metric twice"):
        parse_level("ttft_p99<=1s,ttft_p99<=2s")


def test_sessions_are_dealt_out_in_turn_and_stay_together(tmp_path: Path) -> None:
    rows = [("a", 1), ("b", 2), ("a", 3), (None, 4), ("b", 5), ("c", 6)]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"prompt": str(n), "response": "x", "session_id": s}) + "\n" for s, n in rows))
    shares = split_sessions(trace, 2, tmp_path)
    assert [[record.prompt for _, record in iter_records(share)] for share in shares] == [
        ["1", "3", "4"],
        ["2", "5", "6"],
    ]
    assert split_sessions(trace, 1, tmp_path) == [trace]
    with pytest.raises(ValueError, match="has 4 sessions; allowed: up to as many replicas, not 5"):
        split_sessions(trace, 5, tmp_path)
