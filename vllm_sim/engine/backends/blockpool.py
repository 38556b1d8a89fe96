"""vLLM's own KVCacheManager under a policy, one request after the other: the `blockpool` backend.

Faithful to vLLM 0.32 (v1/core/kv_cache_manager.py, block_pool.py, v1/core/sched/scheduler.py, read): the lookup, the
allocation, the caching, the eviction and the release are upstream's code, called in the scheduler's order: the whole
prompt at once, then one slot for each generated token but the last. With `lru` the queue is upstream's too.
Not faithful: no batch, no chunks, no preemption. A request that needs more blocks than there are is rejected and
changes nothing. Blocks stand for two tokens each, the fewest that can be full, partial or one token short of full:
the manager's work on blocks depends on nothing else. A block's hash is the number of its node, which `link` gave it.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from vllm.distributed.kv_events import BlockRemoved, BlockStored, KVCacheEvent
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.request import Request

from vllm_sim.engine.pool import Description, adopt
from vllm_sim.eviction.chains import Chains
from vllm_sim.eviction.kernel import ALLOCATED, BY, COLD, GENERATED, HIT, MISSED
from vllm_sim.eviction.online_cache import OnlineCache
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import BlockEvents, Run, checked_capacity, make_context, run_of
from vllm_sim.trace.hints import Hints

_BLOCK_TOKENS = 2
_MAX_MODEL_LEN = 2**40
_HASH_BYTES = 8


def run(chains: Chains, policy: str, capacity: int | None, params: dict[str, Any] | None = None, seed: int = 0) -> Run:
    """Runs the requests through vLLM's cache; arguments, result and errors as those of `eviction.simulate.simulate`.

    Raises:
        ValueError: the chains are of raw blocks, which vLLM does not have.
    """
    cache = PoolCache(chains, policy, capacity, params, seed)
    cache.serve(np.arange(chains.need.size))
    rejected = chains.need > checked_capacity(chains, capacity)
    return run_of(cache.out, rejected, cache.evicted_blocks, cache.orphan_blocks)


class PoolCache:
    """vLLM's cache, as `eviction.simulate.SimulatedCache` is the kernel's: the same arguments, methods and errors.

    Raises:
        ValueError: the chains are of raw blocks, which vLLM does not have.
    """

    def __init__(
        self,
        chains: Chains,
        policy: str,
        capacity: int | None,
        params: dict[str, Any] | None = None,
        seed: int = 0,
        rows: np.ndarray | None = None,
        out: np.ndarray | None = None,
    ):
        capacity = checked_capacity(chains, capacity)
        if (chains.hittable == chains.need).any():
            raise ValueError("raw blocks have no last token to compute; allowed: chains linked by vLLM's rules")
        self.chains, self.capacity, self.manager = chains, capacity, make_manager(capacity)
        self.out = np.zeros((chains.need.size, 6), np.int64) if out is None else out
        self._ledger = _Ledger(chains)
        self._is_generated = np.zeros(capacity + 1, np.bool_)
        if policy == "lru":
            make_policy(policy, PolicyContext(capacity, nodes=1), params)
            return
        online = OnlineCache(policy, make_context(chains, policy, capacity, seed, rows), params, _nodes)
        hints = itertools.starmap(Hints, chains.hints.tolist())
        columns = (chains.category.tolist(), chains.arrival_ms.tolist(), hints)
        described = [Description(*row) for row in zip(itertools.count(), *columns)]
        adopt(self.manager, online, lambda request: described[int(request.request_id)])

    @property
    def evicted_blocks(self) -> int:
        """So far."""
        return self._ledger.evicted_blocks

    @property
    def orphan_blocks(self) -> int:
        """Most at any time."""
        return self._ledger.orphan_blocks

    def serve(self, rows: np.ndarray) -> None:
        """Serves these requests, in their order."""
        for row in rows.tolist():
            self._serve(row)

    def hit_blocks(self, row: int) -> int:
        """How many blocks a request would hit now."""
        if self.chains.need[row] > self.capacity:
            return 0
        _, computed, _ = self.manager.get_computed_blocks(_make_request(self.chains, row))
        return computed // _BLOCK_TOKENS

    def take_events(self) -> BlockEvents:
        """What the last request stored and removed, as vLLM's KV events say."""
        return self._ledger.take()

    def _serve(self, row: int) -> None:
        chains, manager, ledger, out = self.chains, self.manager, self._ledger, self.out[row]
        ledger.take()
        nodes = _nodes_of(chains, row)
        limit, prompt = chains.hittable[row], chains.prompt[row]
        known = ledger.known(nodes[:limit])
        out[COLD], out[MISSED], out[BY] = limit - known, known, -1
        if chains.need[row] > self.capacity:
            return
        request = _make_request(chains, row)
        blocks, computed, _ = manager.get_computed_blocks(request)
        hit = computed // _BLOCK_TOKENS
        out[HIT], out[MISSED] = hit, known - hit
        out[GENERATED] = self._is_generated[blocks.get_block_ids()[0]].sum()
        if known > hit:
            out[BY] = ledger.evictor[nodes[hit]]

        def note() -> None:
            ledger.note(manager.take_events(), row)

        _compute(manager, request, computed, blocks, _computed_tokens(chains, row), note)
        table = manager.get_block_ids(request.request_id)[0]
        out[ALLOCATED] = len(table) - hit
        self._is_generated[table[hit : nodes.size]] = np.arange(hit, nodes.size) >= prompt
        manager.free(request)


def _nodes_of(chains: Chains, row: int) -> np.ndarray:
    return chains.nodes[chains.begins[row] : chains.begins[row + 1]]


def make_manager(capacity: int) -> KVCacheManager:
    """One group of full attention, as the engine would make it, and the null block besides the usable ones."""
    spec = FullAttentionSpec(block_size=_BLOCK_TOKENS, num_kv_heads=1, head_size=1, dtype=torch.float32)
    config = KVCacheConfig(capacity + 1, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    return KVCacheManager(
        config,
        max_model_len=_MAX_MODEL_LEN,
        scheduler_block_size=_BLOCK_TOKENS,
        hash_block_size=_BLOCK_TOKENS,
        enable_kv_cache_events=True,
    )


def _compute(
    manager: KVCacheManager, request: "_Row", hit_tokens: int, hit: Any, tokens: int, note: Callable[[], None]
) -> None:
    """Takes slots for a request as the scheduler does, up to `tokens`; `note` is called after each allocation."""
    manager.allocate_slots(request, request.num_tokens - hit_tokens, hit_tokens, hit)
    request.compute(request.num_tokens - request.num_computed_tokens)
    note()
    while request.num_computed_tokens < tokens:
        request.append_output_token_ids(0)
        manager.allocate_slots(request, 1)
        request.compute(1)
        note()


def _computed_tokens(chains: Chains, row: int) -> int:
    """The last block holds one token where it is not full."""
    cached = int(chains.begins[row + 1] - chains.begins[row])
    return cached * _BLOCK_TOKENS + int(chains.need[row]) - cached


class _Row(Request):
    """Upstream's request, whose count of computed tokens is kept here, as the scheduler keeps it."""

    def compute(self, tokens: int) -> None:
        """So many more tokens are computed."""
        self.num_computed_tokens += tokens


def _make_request(chains: Chains, row: int) -> _Row:
    hashes = [BlockHash(int(node).to_bytes(_HASH_BYTES, "big")) for node in _nodes_of(chains, row)]
    full = int(chains.prompt[row])

    def hash_blocks(request: Request) -> list[BlockHash]:
        return hashes[len(request.block_hashes) : request.num_tokens // _BLOCK_TOKENS]

    prompt = [0] * (full * _BLOCK_TOKENS + int(chains.prompt_need[row]) - full)
    return _Row(str(row), prompt, SamplingParams(max_tokens=1), None, arrival_time=0.0, block_hasher=hash_blocks)


class _Ledger:
    """By vLLM's KV events: which request evicted a node last, and whether cached blocks have lost their parents."""

    def __init__(self, chains: Chains):
        self.parent = np.full(chains.working_set, -1)
        self.parent[chains.nodes[1:]] = chains.nodes[:-1]
        begins = chains.begins[:-1]
        self.parent[chains.nodes[begins[begins < chains.begins[1:]]]] = -1
        self.seen = np.zeros(chains.working_set, np.bool_)
        self.evictor = np.full(chains.working_set, -1)
        self.copies = np.zeros(chains.working_set, np.int64)
        self.children = np.zeros(chains.working_set, np.int64)
        self.orphans = self.orphan_blocks = self.evicted_blocks = 0
        self._events = BlockEvents([], [])

    def known(self, nodes: np.ndarray) -> int:
        """How many nodes of a chain have been cached before, from the first one on."""
        unknown = np.flatnonzero(~self.seen[nodes])
        return int(unknown[0]) if unknown.size else nodes.size

    def take(self) -> BlockEvents:
        """What was stored and removed since the last call."""
        taken, self._events = self._events, BlockEvents([], [])
        return taken

    def note(self, events: list[KVCacheEvent], row: int) -> None:
        """Takes note of events that happened while a row was served."""
        for event in events:
            if isinstance(event, BlockStored):
                for name in event.block_hashes:
                    self._store(_node(name))
            elif isinstance(event, BlockRemoved):
                for name in event.block_hashes:
                    self._remove(_node(name), row)

    def _store(self, node: int) -> None:
        self._events.stored.append(node)
        self.seen[node] = True
        self.copies[node] += 1
        if self.copies[node] == 1:
            self._count(node, 1)

    def _remove(self, node: int, row: int) -> None:
        self._events.removed.append(node)
        self.evictor[node] = row
        self.evicted_blocks += 1
        self.copies[node] -= 1
        if self.copies[node] == 0:
            self._count(node, -1)
            self.orphan_blocks = max(self.orphan_blocks, self.orphans)

    def _count(self, node: int, change: int) -> None:
        self.orphans -= change * int(self.children[node])
        parent = self.parent[node]
        if parent >= 0:
            self.children[parent] += change
            if self.copies[parent] == 0:
                self.orphans += change


def _node(name: int | bytes) -> int:
    return name if isinstance(name, int) else int.from_bytes(name, "big")


def _nodes(names: list[bytes]) -> np.ndarray:
    return np.array([_node(name) for name in names])
