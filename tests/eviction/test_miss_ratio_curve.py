"""LRU at all capacities in one pass against one simulation for each."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.eviction.test_policies import random_requests
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.miss_ratio_curve import lru_curve, lru_levels
from vllm_sim.eviction.simulate import simulate

BLOCK_SIZE = 4


def hits_at(chains: Chains, capacity: int) -> list[int]:
    levels, ends = lru_levels(chains), np.cumsum(chains.hittable)
    return [
        int((levels[end - limit : end] <= capacity).sum()) for end, limit in zip(ends, chains.hittable, strict=True)
    ]


@st.composite
def chains_of_copies(draw: st.DrawFn) -> Chains:
    """Prompts over two ids that end on a block or just after it, with generated blocks: many copies of a node."""
    row = st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(0, 4), st.integers(0, 9))
    rows = draw(st.lists(row, min_size=1, max_size=25))
    prompts = np.array([max(1, BLOCK_SIZE * len(ids) + tail * (tail < BLOCK_SIZE)) for ids, tail, _ in rows])
    outputs = np.array([output for _, _, output in rows])
    cached = (prompts + np.maximum(outputs, 1) - 1) // BLOCK_SIZE
    ids = [[*ids, 0, 0, 0][: max(size, len(ids))] for (ids, _, _), size in zip(rows, cached, strict=True)]
    begins = np.concatenate([[0], np.cumsum([len(row) for row in ids])])
    zeros = np.zeros(len(rows), np.int64)
    flat = np.array([block for row in ids for block in row], np.int64)
    return link(Requests(flat, begins, prompts, outputs, zeros, zeros), BLOCK_SIZE, draw(st.booleans()))


@given(chains_of_copies())
def test_each_request_hits_what_it_hits_in_a_simulation_of_that_capacity(chains: Chains) -> None:
    least = max(1, int(chains.need.max()))
    for capacity in range(least, least + 25):
        assert hits_at(chains, capacity) == simulate(chains, "lru", capacity).hit.tolist(), capacity


@pytest.mark.parametrize("raw", [False, True], ids=["vllm", "raw"])
@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_the_curve_is_that_of_single_simulations(raw: bool, warmup: float) -> None:
    requests = random_requests(0, count=400, ids=4)
    chains = link(requests, BLOCK_SIZE, raw)
    curve = lru_curve(chains, requests.prompt_tokens, BLOCK_SIZE, warmup)
    first = int(warmup * 400)
    assert curve.capacity_blocks[0] == chains.need.max()
    assert np.array_equal(np.diff(curve.capacity_blocks), np.ones(curve.capacity_blocks.size - 1))
    for i, capacity in enumerate(curve.capacity_blocks):
        run = simulate(chains, "lru", int(capacity))
        tokens = np.minimum(run.hit * BLOCK_SIZE, requests.prompt_tokens)
        assert curve.hit_blocks[i] == run.hit[first:].sum()
        assert curve.hit_tokens[i] == tokens[first:].sum()
        assert curve.request_hit_rate[i] == pytest.approx((tokens / requests.prompt_tokens)[first:].mean())
        assert curve.evicted_blocks[i] == run.evicted_blocks
    assert curve.hit_blocks[-1] == simulate(chains, "lru", None).hit[first:].sum() > curve.hit_blocks[0]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("repeats", [1, 2, 20_000], ids=lambda repeats: f"extended after {repeats}")
def test_a_prompt_that_comes_thousands_of_times_is_no_harder(repeats: int) -> None:
    """Each time vLLM computes its last block anew, so that the node has thousands of copies until it is hit."""
    count, blocks = 20_000, 4
    extended = np.arange(1, count + 1) % (repeats + 1) == 0
    extended[-1] = True
    lengths = blocks + extended
    begins = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(begins[-1]) - np.repeat(begins[:-1], lengths)
    zeros = np.zeros(count, np.int64)
    chains = link(Requests(ids, begins, lengths * BLOCK_SIZE + extended, zeros + 1, zeros, zeros), BLOCK_SIZE)
    levels, ends = lru_levels(chains), np.cumsum(chains.hittable)
    for capacity in (6, 7, 20, 1000):
        hits = np.add.reduceat(levels <= capacity, np.append(0, ends[:-1]))
        assert np.array_equal(hits, simulate(chains, "lru", capacity).hit), capacity
