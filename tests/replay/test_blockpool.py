"""The fast cache against vLLM's own KVCacheManager, request by request, on random workloads."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request

from vllm_sim.engine.backends.blockpool import run
from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.names import LITERATURE, POLICIES
from vllm_sim.eviction.simulate import simulate

ATTENTIVE = "tests.eviction.user_policies:Attentive"


class Call(NamedTuple):
    """One request: its tokens, and its salt (0 for none)."""

    prompt: tuple[int, ...]
    output: tuple[int, ...]
    salt: int
    category: int


@st.composite
def workloads(draw: Any) -> tuple[int, list[Call]]:
    """A block size, and calls over two tokens: new, the same again, cut at a full block, or the next turn."""
    block_size = draw(st.integers(1, 4))
    tokens = st.integers(0, 1)
    calls: list[Call] = []
    for _ in range(draw(st.integers(1, 30))):
        output = tuple(draw(st.lists(tokens, max_size=6)))
        kind = draw(st.sampled_from(["new", "again", "cut", "turn"])) if calls else "new"
        category = draw(st.integers(0, 2))
        if kind == "new":
            prompt = tuple(draw(st.lists(tokens, min_size=1, max_size=4 * block_size)))
            calls.append(Call(prompt, output, draw(st.integers(0, 1)), category))
            continue
        before = draw(st.sampled_from(calls))
        prompt = before.prompt
        if kind == "cut":
            prompt = prompt[: len(prompt) // block_size * block_size] or prompt
        elif kind == "turn" and len(prompt) < 8 * block_size:
            prompt = prompt + before.output + tuple(draw(st.lists(tokens, max_size=3)))
        calls.append(Call(prompt, output, before.salt, category))
    return block_size, calls


def to_requests(block_size: int, calls: list[Call]) -> Requests:
    """Ids of blocks by their tokens, for the prompt's full blocks and those of the generated tokens."""
    numbers: dict[tuple[int, ...], int] = {}
    rows = []
    for call in calls:
        text = call.prompt + call.output[:-1]
        blocks = [text[i : i + block_size] for i in range(0, len(text) // block_size * block_size, block_size)]
        rows.append([numbers.setdefault(block, len(numbers)) for block in blocks])
    return Requests(
        np.array([name for row in rows for name in row], np.int64),
        np.concatenate([[0], np.cumsum([len(row) for row in rows])]),
        np.array([len(call.prompt) for call in calls]),
        np.array([len(call.output) for call in calls]),
        np.array([call.category for call in calls]),
        np.array([call.salt for call in calls]),
        1000.0 * np.arange(len(calls)) ** 2,
        np.array([[call.salt, np.nan, 9 * call.category, 2000.0 * len(call.output)] for call in calls]),
    )


def assert_equal_runs(fast: Any, real: Any) -> None:
    for field in dataclasses.fields(fast):
        left, right = getattr(fast, field.name), getattr(real, field.name)
        assert np.array_equal(left, right), f"{field.name}: fast {left}, vLLM {right}"


@pytest.mark.parametrize(
    "policy", [*POLICIES, ATTENTIVE, *(pytest.param(name, marks=pytest.mark.slow) for name in LITERATURE)]
)
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(workload=workloads(), spare=st.integers(-2, 8))
def test_the_fast_cache_equals_vllm(policy: str, workload: tuple[int, list[Call]], spare: int) -> None:
    """Also with room for the largest request and no more, and with too little for it."""
    chains = link(to_requests(*workload), workload[0])
    capacity = max(1, int(chains.need.max()) + spare)
    assert_equal_runs(simulate(chains, policy, capacity), run(chains, policy, capacity))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(workload=workloads())
def test_blocks_are_the_same_node_where_vllm_hashes_them_alike(workload: tuple[int, list[Call]]) -> None:
    block_size, calls = workload
    chains = link(to_requests(block_size, calls), block_size)
    init_none_hash(sha256)
    hasher = get_request_block_hasher(block_size, sha256)
    hashes: list[bytes] = []
    for call in calls:
        text, salt = list(call.prompt + call.output[:-1]), str(call.salt) if call.salt else None
        request = Request("0", text, SamplingParams(max_tokens=1), None, cache_salt=salt, block_hasher=hasher)
        hashes += request.block_hashes
    pairs = set(zip(chains.nodes.tolist(), hashes, strict=True))
    assert len(pairs) == len(set(hashes)) == chains.working_set


def test_a_whole_prompt_cached_at_a_block_boundary_gets_a_second_copy() -> None:
    calls = [Call((0, 1, 0, 1), (1,), 0, 0)] * 2
    chains = link(to_requests(2, calls), 2)
    real = run(chains, "lru", 3)
    assert real.hit.tolist() == [0, 1]
    assert real.allocated.tolist() == [2, 1]
    assert real.evicted_blocks == 0


def test_raw_blocks_are_refused() -> None:
    chains = link(to_requests(2, [Call((0, 1), (1,), 0, 0)]), 2, raw=True)
    with pytest.raises(ValueError, match="raw blocks"):
        run(chains, "lru", 3)
