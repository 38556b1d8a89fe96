"""The optimum against exhaustive search, and LRU against a simulator that nobody here wrote."""

import functools
import itertools

import numpy as np
import pytest
from kvcache_sim.plan import build_execution_plan
from kvcache_sim.policies import simulate_policy
from kvcache_sim.trace import TraceData

from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import make_context, simulate


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


def most_hits(chains: Chains, capacity: int, may_strand: bool = False) -> int:
    """The most blocks that can be hit, whatever is evicted: leaves alone, or any block if some may be stranded.

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
                if may_strand or is_closed({*rest, *used})
            }
            used = nodes[:end]
        return hit + max(best(row + 1, tuple(sorted([*nodes, *rest]))) for rest in states)

    return best(0, ())


def test_opt_hits_as_much_as_exhaustive_search_finds() -> None:
    evicting = 0
    for seed in range(1000):
        chains, capacity = tiny_chains(seed)
        run = simulate(chains, "belady", capacity)
        assert run.hit.sum() == most_hits(chains, capacity), seed
        evicting += run.missed.any()
    assert evicting > 100


def test_a_stranded_block_may_be_worth_one_hit_more_than_the_optimum_of_leaves() -> None:
    """A child is kept while its parent, which every request brings again, is computed anew. No policy here does so."""
    more = {}
    for seed in range(1000):
        chains, capacity = tiny_chains(seed)
        found = most_hits(chains, capacity, may_strand=True) - int(simulate(chains, "belady", capacity).hit.sum())
        assert found >= 0, seed
        if found:
            more[seed] = found
    assert more == {842: 1}


def session_requests(seed: int) -> Requests:
    """Sessions: a request is a prefix of its session's ids, and sessions share their beginnings."""
    draw = np.random.default_rng(seed)
    count = 1000
    lengths = draw.integers(1, 30, count)
    session = draw.integers(0, 40, count)
    rows = [[min(i, session[r] % 4) * 1000 + i + (session[r] * 100_000 if i > 6 else 0) for i in range(n)]
            for r, n in enumerate(lengths)]  # fmt: skip
    tokens = lengths * 512 - draw.integers(0, 512, count)
    zeros = np.zeros(count, np.int64)
    return Requests(np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)]), tokens, zeros, zeros, zeros)


def kvcache_simulator_rate(requests: Requests, policy: str, capacity: int) -> float:
    """Token hit rate after the first 30 % of the requests."""
    lengths, tokens = np.diff(requests.begins), requests.prompt_tokens
    weights = np.full(requests.ids.size, 512)
    weights[requests.begins[1:] - 1] -= lengths * 512 - tokens
    ids = requests.ids.tolist()
    trace = TraceData(
        ids, weights.tolist(), requests.begins.tolist(), 512, tokens.size, len(set(ids)), int(tokens.sum()),
        float(tokens.mean()), 0, 0,
    )  # fmt: skip
    found = simulate_policy(build_execution_plan(trace, warmup_fraction=0.3), policy, capacity)
    assert found.measurementMode == "fixed_window"
    return found.hitRate


def token_rate(hit: np.ndarray, requests: Requests) -> float:
    warmup = int(0.3 * hit.size)
    tokens = requests.prompt_tokens
    return float(np.minimum(hit * 512, tokens)[warmup:].sum() / tokens[warmup:].sum())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [60, 150])
def test_lru_equals_kvcache_simulator(seed: int, capacity: int) -> None:
    requests = session_requests(seed)
    ours = token_rate(simulate(link(requests, 512, raw=True), "lru", capacity).hit, requests)
    assert ours == pytest.approx(kvcache_simulator_rate(requests, "lru", capacity), abs=1e-12)
    assert 0 < ours < 1


def hits_without_room_for_the_request(chains: Chains, capacity: int) -> np.ndarray:
    """Hits of the optimum where a request needs no room while it runs: only when it ends, the cache is cut to its size.

    So a block that is of less use than all others is never kept. vLLM cannot do so, as a running request holds all of
    its blocks; kvcache-simulator does: it does not insert a block whose next use is farther than that of every leaf.
    """
    size = capacity + int(chains.need.max())
    policy = make_policy("belady", make_context(chains, "belady", size))
    index = PrefixIndex(size, chains.working_set, policy, recycle=False)
    blank = list(range(size))
    hits = np.zeros(chains.need.size, np.int64)
    for row in range(hits.size):
        nodes = chains.nodes[chains.begins[row] : chains.begins[row + 1]].tolist()
        while hits[row] < len(nodes) and index.first[nodes[hits[row]]] >= 0:
            hits[row] += 1
        policy.started(row, len(nodes))
        table = [int(index.first[node]) for node in nodes[: hits[row]]]
        for block in table:
            index.touch(policy, block, False)
        for i in range(hits[row], len(nodes)):
            table.append(blank.pop())
            index.cache(policy, table[i], nodes[i], nodes[i - 1] if i else -1, False)
        for block in reversed(table):
            index.release(policy, block)
        while size - len(blank) > capacity:
            blank.append(index.evict(policy))
    return hits


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("capacity", [60, 150])
def test_the_optimum_that_keeps_no_room_equals_kvcache_simulator(seed: int, capacity: int) -> None:
    """Their optimum is another one than ours: on the Mooncake conversation trace .3091 against .3065 at 3,000 blocks.

    The same policy and index in a cache as theirs give .3091, and .3983 at 10,000 blocks, as they do.
    """
    requests = session_requests(seed)
    chains = link(requests, 512, raw=True)
    theirs = kvcache_simulator_rate(requests, "optimal", capacity)
    assert token_rate(hits_without_room_for_the_request(chains, capacity), requests) == pytest.approx(theirs, abs=5e-5)
    assert token_rate(simulate(chains, "belady", capacity).hit, requests) < theirs + 5e-5
