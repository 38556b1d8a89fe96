"""The optimum against exhaustive search, and LRU against a simulator that nobody here wrote."""

import functools
import itertools

import numpy as np
import pytest
from kvcache_sim.plan import build_execution_plan
from kvcache_sim.policies import simulate_policy
from kvcache_sim.trace import TraceData

from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.simulate import simulate


def tiny_chains(seed: int) -> tuple[Chains, int]:
    """Up to nine requests of one to three blocks over two ids, with copies, generated blocks and a salt."""
    draw = np.random.default_rng(seed)
    count = int(draw.integers(4, 10))
    prompt, output = draw.integers(1, 6, count), draw.integers(0, 4, count)
    lengths = (prompt + np.maximum(output, 1) - 1) // 2
    ids = draw.integers(0, 2, lengths.sum())
    begins = np.concatenate([[0], np.cumsum(lengths)])
    salt = (draw.random(count) < 0.1).astype(np.int64)
    return link(Requests(ids, begins, prompt, output, np.zeros(count, np.int64), salt), 2), int(draw.integers(3, 6))


def most_hits(chains: Chains, capacity: int) -> int:
    """The most blocks that can be hit, whatever is evicted, if no block is stranded.

    A state is the sorted nodes of the blocks that are cached. A request takes the blocks of its prompt at once and
    those of generated tokens one by one, as in kernel.py.
    """
    starts = set(chains.begins.tolist())
    parent = {int(n): -1 if i in starts else int(chains.nodes[i - 1]) for i, n in enumerate(chains.nodes)}

    def is_closed(nodes: set[int]) -> bool:
        return all(parent[node] < 0 or parent[node] in nodes for node in nodes)

    @functools.cache
    def best(row: int, cached: tuple[int, ...]) -> int:
        if row == chains.need.size:
            return 0
        need, prompt = int(chains.need[row]), int(chains.prompt_need[row])
        if need > capacity:
            return best(row + 1, cached)
        nodes = chains.nodes[chains.begins[row] : chains.begins[row + 1]].tolist()
        hit = 0
        while hit < chains.hittable[row] and nodes[hit] in cached:
            hit += 1
        used, free = nodes[:hit], list(cached)
        for node in used:
            free.remove(node)
        blank = capacity - len(cached)
        states = {tuple(free)}
        for end in range(prompt, need + 1):
            taken = prompt - hit if end == prompt else 1
            evicted, blank = max(0, taken - blank), max(0, blank - taken)
            states = {
                rest
                for state in states
                for rest in itertools.combinations(state, len(state) - evicted)
                if is_closed({*rest, *used})
            }
            used = nodes[:end]
        return hit + max(best(row + 1, tuple(sorted([*nodes, *rest]))) for rest in states)

    return best(0, ())


def test_opt_hits_as_much_as_exhaustive_search_finds() -> None:
    evicting = 0
    for seed in range(1000):
        chains, capacity = tiny_chains(seed)
        run = simulate(chains, "opt", capacity)
        assert run.hit.sum() == most_hits(chains, capacity), seed
        evicting += run.missed.any()
    assert evicting > 100


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [60, 150])
def test_lru_equals_kvcache_simulator(seed: int, capacity: int) -> None:
    """Raw blocks of 512 tokens, token hits, the first 30 % of the requests as warm-up."""
    draw = np.random.default_rng(seed)
    count = 1000
    lengths = draw.integers(1, 30, count)
    # Sessions: a request is a prefix of its session's ids, and sessions share their beginnings.
    session = draw.integers(0, 40, count)
    rows = [[min(i, session[r] % 4) * 1000 + i + (session[r] * 100_000 if i > 6 else 0) for i in range(n)]
            for r, n in enumerate(lengths)]  # fmt: skip
    tokens = lengths * 512 - draw.integers(0, 512, count)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.concatenate(rows)
    zeros = np.zeros(count, np.int64)
    run = simulate(link(Requests(ids, begins, tokens, zeros, zeros, zeros), 512, raw=True), "lru", capacity)
    warmup = int(0.3 * count)
    ours = np.minimum(run.hit * 512, tokens)[warmup:].sum() / tokens[warmup:].sum()

    weights = np.full(ids.size, 512)
    weights[begins[1:] - 1] -= lengths * 512 - tokens
    trace = TraceData(
        ids.tolist(), weights.tolist(), begins.tolist(), 512, count, len(set(ids.tolist())), int(tokens.sum()),
        float(tokens.mean()), 0, 0,
    )  # fmt: skip
    theirs = simulate_policy(build_execution_plan(trace, warmup_fraction=0.3), "lru", capacity)
    assert theirs.measurementMode == "fixed_window"
    assert ours == pytest.approx(theirs.hitRate, abs=1e-12)
    assert 0 < ours < 1
