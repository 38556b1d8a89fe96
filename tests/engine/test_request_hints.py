"""Hints of a live request: from vllm_xargs and kv_hints, and none where they make no sense."""

import math
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.kv_hints import KvHintAction, KvHintsEnvelope
from vllm.v1.request import Request

from vllm_sim.engine.hints import hints_of_request
from vllm_sim.trace.hints import NO_HINTS


def request(xargs: dict[str, Any] | None, payload: dict[str, Any] | None = None, kind: str = "session") -> Request:
    envelope = None
    if payload is not None:
        envelope = KvHintsEnvelope("1", "m", [KvHintAction("a", kind, "1", payload)])
    return Request("r", [1, 2], SamplingParams(max_tokens=1, extra_args=xargs), None, kv_hints=envelope)


def test_vllm_xargs_go_before_kv_hints_and_other_actions_are_passed_over() -> None:
    found = hints_of_request(request({"next_turn_ms": 20000, "mine": "x"}, {"next_turn_ms": 1, "session_end": 0}))
    assert (found.next_turn_ms, found.session_end) == (20000, 0)
    assert math.isnan(found.retention_ms)
    assert hints_of_request(request(None, {"session_end": 1}, "prefetch")) is NO_HINTS


@pytest.mark.parametrize("xargs", [None, {"mine": 3}, {"session_end": "yes"}, {"next_turn_ms": -1, "session_end": 1}])
def test_a_request_that_says_nothing_or_nonsense_has_no_hints(xargs: dict[str, Any] | None) -> None:
    assert all(math.isnan(value) for value in hints_of_request(request(xargs)))
