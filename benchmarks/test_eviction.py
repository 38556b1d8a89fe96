"""The fast cache against kvcache-simulator's C++, policies against LRU, and vLLM's pool with and without a policy."""

import gc
import hashlib
import random
import time
import tracemalloc
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from kvcache_sim.cpp_backend import run_cpp_sweep
from kvcache_sim.trace import TraceData
from vllm.v1.core.kv_cache_utils import BlockHash, KVCacheBlock, make_block_hash_with_group_id

from benchmarks.rows import Measured, Measurement
from vllm_sim.engine.backends.blockpool import make_manager
from vllm_sim.engine.pool import Description, adopt
from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.compiled import native
from vllm_sim.eviction.miss_ratio_curve import lru_levels
from vllm_sim.eviction.online_cache import OnlineCache, online_context
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import POLICIES, make_policy
from vllm_sim.eviction.simulate import make_context

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

REFERENCES, CAPACITY, REPEATS = 288_500, 10_000, 9
# With the name `lru` upstream's own queue would serve.
LIVE = ["vllm_sim.eviction.policies.lru:Lru", *(name for name in POLICIES if name not in ("lru", "belady"))]


def short(policy: str) -> str:
    """A policy's name in a table."""
    return policy.rpartition(":")[2].lower()


def make_requests(references: int) -> Requests:
    """Conversations of growing prompts, 24 blocks on average, which begin with one of 50 system prompts."""
    draw = np.random.default_rng(0)
    rows: list[np.ndarray] = []
    alive: list[np.ndarray] = []
    total = fresh = 0
    while total < references:
        if not alive or draw.random() < 0.6:
            before = np.arange(3) + 3 * draw.integers(0, 50)
        else:
            before = alive.pop(draw.integers(max(0, len(alive) - 2000), len(alive)))
        size = int(draw.geometric(1 / 16))
        row = np.concatenate([before, 150 + fresh + np.arange(size)])
        fresh, total = fresh + size, total + row.size
        rows.append(row)
        alive.append(row)
    lengths = np.array([row.size for row in rows])
    zeros = np.zeros(len(rows), np.int64)
    return Requests(np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)]), lengths * 512, zeros, zeros, zeros)


def best_of(measure: Callable[[], float]) -> float:
    return min(measure() for _ in range(REPEATS))


def simulation_seconds(chains: Chains, policy: str) -> float:
    """One more simulation of a trace that is linked already."""
    ranker = make_policy(policy, make_context(chains, policy, CAPACITY))
    begin = time.perf_counter()
    index = PrefixIndex(CAPACITY, chains.working_set, ranker, recycle=False)
    slots, rows, out = (
        kernel.empty_slots(CAPACITY),
        np.arange(chains.need.size),
        np.zeros((chains.need.size, 6), np.int64),
    )
    kernel.serve(native(index), native(ranker), chains, slots, rows, out)
    return time.perf_counter() - begin


def test_lru_is_five_times_faster_than_the_cpp_simulator(measured: Measured) -> None:
    requests = make_requests(REFERENCES)
    chains = link(requests, 512, raw=True)
    count, ids = requests.prompt_tokens.size, requests.ids.tolist()
    tokens = int(requests.prompt_tokens.sum())
    trace = TraceData(
        ids, [512] * len(ids), requests.begins.tolist(), 512, count, len(set(ids)), tokens, tokens / count, 0, 0
    )

    def cpp_seconds(capacities: int) -> float:
        begin = time.perf_counter()
        run_cpp_sweep(
            trace, capacities=[CAPACITY + i for i in range(capacities)], policies=["lru"], warmup_requests=count // 3
        )
        return time.perf_counter() - begin

    simulation_seconds(chains, "lru")
    eleven = one = ours = 1e9
    # In turns, as what else runs on the machine meets them all.
    for _ in range(REPEATS):
        eleven, one = min(eleven, cpp_seconds(11)), min(one, cpp_seconds(1))
        ours = min(ours, best_of(lambda: simulation_seconds(chains, "lru")))
    theirs = (eleven - one) / 10
    measured(
        Measurement(
            name="lru",
            what=f"speed of `lru` in the kernel over kvcache-simulator's C++, {len(ids):,} references",
            value=theirs / ours,
            unit="times",
            at_least=5,
            parts={"kernel, ms": ours * 1e3, "C++, ms": theirs * 1e3},
        )
    )


def test_every_policy_but_the_learner_is_within_ten_times_of_lru(measured: Measured) -> None:
    chains = link(make_requests(REFERENCES), 512)
    for policy in POLICIES:
        simulation_seconds(chains, policy)
    seconds = {policy: best_of(lambda policy=policy: simulation_seconds(chains, policy)) for policy in POLICIES}
    measured(
        Measurement(
            name="policies",
            what="time of the slowest policy in the kernel over `lru`, `hybrid` apart",
            value=max(value for policy, value in seconds.items() if policy != "hybrid") / seconds["lru"],
            unit="times",
            at_most=10,
            parts={f"`{policy}`": value / seconds["lru"] for policy, value in seconds.items()},
        )
    )


def make_copies(count: int, blocks: int = 50) -> Requests:
    """One prompt of whole blocks over and over, in every other request with three blocks more: a copy each time."""
    lengths = np.where(np.arange(count) % 2, blocks + 3, blocks)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    ids, zeros = np.arange(begins[-1]) - np.repeat(begins[:-1], lengths), np.zeros(count, np.int64)
    return Requests(ids, begins, 512 * lengths + (lengths > blocks), zeros + 1, zeros, zeros)


def test_lru_at_all_capacities_costs_as_much_as_few_runs(measured: Measured) -> None:
    chains = {"conversations": link(make_requests(REFERENCES), 512), "copies": link(make_copies(10_000), 512)}
    one, every = dict.fromkeys(chains, 1e9), dict.fromkeys(chains, 1e9)
    for name, chain in chains.items():
        simulation_seconds(chain, "lru")
        lru_levels(chain)
        for _ in range(REPEATS):
            begin = time.perf_counter()
            lru_levels(chain)
            every[name] = min(every[name], time.perf_counter() - begin)
            one[name] = min(one[name], simulation_seconds(chain, "lru"))
    for name, what in (("conversations", "conversations"), ("copies", "one prompt that comes 10,000 times")):
        measured(
            Measurement(
                name=f"curve_{name}",
                what=f"time of the miss ratio curve of `lru` over that of one run, {what}",
                value=every[name] / one[name],
                unit="times",
                at_most=10,
                parts={"curve, ms": every[name] * 1e3, "one run, ms": one[name] * 1e3},
            )
        )


def test_cost_grows_linearly_with_references(measured: Measured) -> None:
    chains = [link(make_requests(references), 512) for references in (10**5, 10**6, 10**7)]
    per_reference = []
    for chain in chains:
        simulation_seconds(chain, "lru")
        per_reference.append(min(simulation_seconds(chain, "lru") for _ in range(3)) / chain.nodes.size)
    measured(
        Measurement(
            name="references",
            what="cost of a reference, `lru` in the kernel: the largest over the smallest of three sizes",
            value=max(per_reference) / min(per_reference),
            unit="times",
            at_most=3,
            parts={
                f"{chain.nodes.size:,} references, ns each": cost * 1e9
                for chain, cost in zip(chains, per_reference, strict=True)
            },
        )
    )


class _Request:
    """As much of a request as the pool looks at."""

    num_computed_tokens = 1
    num_preemptions = 0
    num_prompt_tokens = 1

    def __init__(self, block_hashes: list[BlockHash]):
        self.block_hashes = block_hashes


def _digest(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


class DecidesNothing:
    """As much of an OnlineCache as `pool_seconds` needs: blocks go in the order of their release.

    What is touched was released last. At random: the order is shuffled once, so that the blocks of a chain do not lie
    beside each other in memory.
    """

    hears_requests = False

    def __init__(self, at_random: bool):
        self.held: deque[int] = deque()
        self.shuffle = at_random

    def touch(self, blocks: Sequence[int], again: bool) -> None:
        for _ in blocks:
            self.held.pop()

    def cache(self, blocks: Sequence[int], names: Sequence[bytes], parent: bytes | None, again: bool) -> None:
        pass

    def release(self, blocks: Sequence[int]) -> None:
        self.held.extend(blocks)

    def evict(self, count: int) -> list[int]:
        if self.shuffle:
            self.shuffle, order = False, list(self.held)
            random.Random(0).shuffle(order)
            self.held = deque(order)
        return [self.held.popleft() for _ in range(count)]


NOTHING = {"a queue that decides nothing": False, "the same, blocks in random order": True}


def pool_seconds(policy: str | None, chain: int = 32) -> float:
    """Seconds a block for allocating, caching and freeing chains in a full pool, and for one hit of each.

    The process's own time, so that what else runs on the machine does not count, and without a search for garbage, that
    would meet one policy and not the other. Policy None: upstream's own LRU; one of NOTHING: the least that a queue of
    ours can cost.
    """
    manager = make_manager(CAPACITY)
    if policy is not None:
        online: Any = (
            DecidesNothing(NOTHING[policy])
            if policy in NOTHING
            else OnlineCache(policy, online_context(policy, CAPACITY))
        )
        adopt(manager, online, lambda request: Description(0))
    pool: Any = manager.block_pool
    pool.enable_kv_cache_events = False
    rounds = 3 * CAPACITY // chain
    hashes = [BlockHash(_digest(i)) for i in range(rounds * chain)]
    spent, blocks_moved = 0.0, 0
    gc.disable()
    for i in range(rounds):
        request = _Request(hashes[i * chain : (i + 1) * chain])
        begin = time.process_time()
        blocks: list[KVCacheBlock] = pool.get_new_blocks(chain)
        pool.cache_full_blocks(request, blocks, 0, chain, 2, 0)
        pool.free_blocks(reversed(blocks))
        if policy is not None:
            pool.serve(request)
        pool.touch(blocks)
        pool.free_blocks(reversed(blocks))
        if i >= CAPACITY // chain:
            spent += time.process_time() - begin
            blocks_moved += chain
    gc.enable()
    assert pool.cached_block_hash_to_block.get_one_block(make_block_hash_with_group_id(hashes[-1], 0)) is not None
    return spent / blocks_moved


def bytes_per_block(policy: str) -> float:
    """What a further block takes: arrays of the index and the policy, and the names of nodes, ghosts among them."""
    _cache_bytes(policy, 1000)  # what the first use of a policy compiles is no block's
    return (_cache_bytes(policy, 2 * CAPACITY) - _cache_bytes(policy, CAPACITY)) / CAPACITY


def _cache_bytes(policy: str, capacity: int) -> int:
    """Memory of a full cache."""
    names = [_digest(name) for name in range(4 * capacity)]
    tracemalloc.start()
    index = OnlineCache(policy, online_context(policy, capacity))
    for first in range(0, len(names), 100):
        blocks = index.evict(100) if first >= capacity else list(range(first + 1, first + 101))
        index.cache(blocks, names[first : first + 100], None, False)
        index.release(blocks[::-1])
    spent = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return spent


@pytest.mark.parametrize(
    ("policies", "bar", "aim"), [(LIVE[:1], 200, None), (["hybrid"], 600, 400), (LIVE, 1000, None)], ids=str
)
def test_memory_of_a_cached_block(policies: list[str], bar: float, aim: float | None, measured: Measured) -> None:
    spent = {f"`{short(policy)}`": bytes_per_block(policy) for policy in policies}
    measured(
        Measurement(
            name="memory" if policies is LIVE else f"memory_{short(policies[0])}",
            what="memory of a further cached block under "
            + ("the largest policy" if policies is LIVE else f"`{short(policies[0])}`"),
            value=max(spent.values()),
            unit="bytes",
            at_most=bar,
            aim=aim,
            parts=spent,
        )
    )


def test_what_policies_cost_in_the_block_pool(measured: Measured) -> None:
    seconds = dict.fromkeys([None, *LIVE, *NOTHING], 1.0)
    for policy in LIVE:
        pool_seconds(policy)
    # In turns, as above.
    for _ in range(REPEATS):
        seconds = {policy: min(before, pool_seconds(policy)) for policy, before in seconds.items()}
    upstream = seconds.pop(None)
    times = {
        str(name) if name in NOTHING else f"`{short(str(name))}`": value / upstream for name, value in seconds.items()
    }
    whats = (
        "cost of a block that is computed once and hit once, in the real block pool under {}, over vLLM's own LRU queue"
    )
    for name, bar, aim in (("lru", 1.5, 1.3), ("hybrid", 1.8, 1.5)):
        measured(
            Measurement(
                name=f"pool_{name}",
                what=whats.format(f"`{name}`"),
                value=times[f"`{name}`"],
                unit="times",
                at_most=bar,
                aim=aim,
                parts={"vLLM's queue, us a block": upstream * 1e6},
            )
        )
    measured(
        Measurement(
            name="pool",
            what=whats.format("the slowest policy"),
            value=max(times.values()),
            unit="times",
            at_most=2.2,
            aim=1.3,
            parts=times,
        )
    )
