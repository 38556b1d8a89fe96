"""Service levels as they are written."""

import pytest

from vllm_sim.sweep.service_level import failures, parse_level, worst

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
