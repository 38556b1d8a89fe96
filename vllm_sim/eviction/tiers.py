"""Two tiers under the `fast` backend: the GPU's cache under a policy, and CPU memory as vLLM's OffloadingConnector.

Faithful to vLLM 0.32 and 0.33 (distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py, v1/kv_offload/cpu/
manager.py and policies/lru.py, read), one request after the other, each prompt in one step, copies of no time,
upstream's lru there: CPU memory is looked up in whole chunks from the GPU's hit on; what it gives takes blocks of the
GPU, which are cached before the rest of the prompt takes its own; all chunks of the prompt are offered, with a load
only those after it; what is stored takes the places of the chunks that were used the longest time ago and are not
offered; a request has used its chunks when it has ended, the tail first, and by the lru of 0.33 when it loads, finds or
stores them, too. A request learns of the end of the one before it in its first step: where it computes then, it stores
before the chunks of that one count as used, and where that one had a single step, its new chunks cannot be read or
evicted yet. Generated tokens are not stored.

Not faithful, as kernel.py: no batch, no chunks of prompts, no preemption. Chunks of one block are held equal to the
engine by a test; with larger ones some requests differ, and `RunConfig` refuses them.

What a request does with the GPU's blocks is written here as in kernel.py, line by line: as methods of the index that
both call it made lru 7 % slower.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.chains import Array, Chains
from vllm_sim.eviction.compiled import compiled, is_compiled, native, view
from vllm_sim.eviction.linked_list import LinkedList
from vllm_sim.eviction.policy import RequestFacts
from vllm_sim.eviction.prefix_index import EVICTED, ORPHANS, PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import Run, make_context

# Columns of what is written for each request, in blocks; BY is a row, -1 for none. The last three split MISSED.
HIT, GENERATED, COLD, MISSED, BY, ALLOCATED, EXTERNAL, GONE, PENDING, NEVER = range(10)
# Places in ChunkTier.counts.
STORED, LOADED, WASTED = range(3)
# States of a chunk; 0: it was never offered.
_HELD, _GONE = 1, 2
_PLACES = 2**30
"""Chunks of a request are fewer."""


@dataclass(frozen=True, slots=True)
class TierRun:
    """What CPU memory did; arrays are counts of blocks per request."""

    external: Array
    """Of Run.hit."""
    gone: Array
    """Of Run.missed: in chunks that CPU memory held and evicted; the next two: not stored yet, never offered."""
    pending: Array
    never: Array
    stored_blocks: int
    loaded_blocks: int
    unused_blocks: int
    """Stored and never loaded, until they were evicted or the run ended."""


@compiled
class ChunkTier:
    """CPU memory: chunks by the node of their last block, the one that was used the longest time ago first.

    Args:
        chunks: it holds.
        blocks: of a chunk.
        nodes: node numbers are below this.
    """

    def __init__(self, chunks: int, blocks: int, nodes: int):
        self.chunks = chunks
        self.blocks = blocks
        self.line = LinkedList(nodes)
        self.state = np.zeros(nodes, np.int8)
        self.was_loaded = np.zeros(nodes, np.bool_)
        # The request that stores a chunk or is offered it, and whether what the request before stored is still written.
        self.writer = np.full(nodes, -1, np.int64)
        self.offered = np.full(nodes, -1, np.int64)
        self.writing = -1
        # The request that found or stored a chunk last.
        self.user = np.full(nodes, -1, np.int64)
        self.counts = np.zeros(3, np.int64)

    def holds(self, node: int) -> bool:
        return self.state[node] == _HELD

    def is_written(self, node: int) -> bool:
        """Whether a held chunk can be read."""
        return self.writer[node] != self.writing or self.writing < 0

    def load(self, node: int, row: int) -> None:
        self.was_loaded[node] = True
        self.user[node] = row

    def find(self, node: int, row: int, chunk: int) -> None:
        """A request loads a chunk, its own of that place, or is offered one that is held."""

    def enter(self, node: int, row: int, chunk: int) -> None:
        """A chunk that is stored enters the line."""
        self.line.append(node)

    def use(self, node: int) -> None:
        """A request that has ended has used a chunk."""
        self.line.remove(node)
        self.line.append(node)

    def finish(self, nodes: Any, row: int, begin: int, start: int, end: int) -> None:
        """A request (-1: none) has ended: it has used its chunks, the tail first."""
        if row < 0:
            return
        self.writing = -1
        for chunk in range(end - 1, start - 1, -1):
            node = nodes[begin + (chunk + 1) * self.blocks - 1]
            if self.user[node] == row and self.line.holds(node):
                self.use(node)

    def store(self, node: int, row: int, chunk: int) -> None:
        self.state[node] = _HELD
        self.writer[node] = row
        self.user[node] = row
        self.was_loaded[node] = False
        self.enter(node, row, chunk)
        self.counts[STORED] += self.blocks

    def can_evict(self, count: int, row: int) -> bool:
        """Whether so many chunks can be evicted, none of them offered by this request or being written."""
        node = self.line.after[self.line.end]
        while count > 0 and node != self.line.end:
            count -= self.offered[node] != row and self.is_written(node)
            node = self.line.after[node]
        return count <= 0

    def evict(self, count: int, row: int) -> None:
        node = self.line.after[self.line.end]
        while count > 0:
            following = self.line.after[node]
            if self.offered[node] != row and self.is_written(node):
                count -= 1
                self.line.remove(node)
                self.state[node] = _GONE
                if not self.was_loaded[node]:
                    self.counts[WASTED] += self.blocks
            node = following


@compiled
class RankedTier(ChunkTier):
    """As 0.33 has it, by rank: what a request finds or stores has its rank, the tail first, until it has ended.

    A rank never falls.

    Args:
        chunks: it holds.
        blocks: of a chunk.
        nodes: node numbers are below this.
    """

    def __init__(self, chunks: int, blocks: int, nodes: int):
        super().__init__(chunks, blocks, nodes)
        self.rank = np.zeros(nodes, np.int64)
        self.ranks = 0
        # The request that has the last rank that a request got, that rank, and the chunk that got a place by it last.
        self.ranked = -1
        self.present = 0
        self.latest = 0

    def find(self, node: int, row: int, chunk: int) -> None:
        rank = self.rank_of(row, chunk)
        if self.rank[node] < rank:
            self.line.remove(node)
            self.place(node, rank)

    def enter(self, node: int, row: int, chunk: int) -> None:
        self.place(node, self.rank_of(row, chunk))

    def use(self, node: int) -> None:
        self.ranks += 1
        self.rank[node] = (self.ranks + 1) * _PLACES - 1
        self.line.remove(node)
        self.line.append(node)

    def rank_of(self, row: int, chunk: int) -> int:
        if self.ranked != row:
            self.ranked = row
            self.ranks += 1
            self.present = self.ranks
        return (self.present + 1) * _PLACES - 2 - chunk

    def place(self, node: int, rank: int) -> None:
        """Puts a chunk after all of a lower rank; the search begins where the one before it stands."""
        line, later = self.line, self.latest
        if not line.holds(later) or self.rank[later] < rank:
            later = line.end
        before = line.before[later]
        while before != line.end and self.rank[before] > rank:
            later = before
            before = line.before[later]
        line.before[node] = before
        line.after[node] = later
        line.after[before] = node
        line.before[later] = node
        line.size += 1
        self.rank[node] = rank
        self.latest = node


@numba.njit(cache=True)
def serve_tiers(index: Any, policy: Any, tier: Any, chains: Any, outputs: Any, capacity: int, out: Any) -> None:
    """Serves all requests.

    Args:
        index: an empty index.
        policy: the policy, compiled as the index is (or both plain, with `serve_tiers.py_func`).
        tier: an empty ChunkTier, as they are.
        chains: the requests, see chains.py.
        outputs: [requests], generated tokens.
        capacity: blocks of the GPU.
        out: written; [requests, 10], see the names of its columns.
    """
    index, policy, tier = view(index), view(policy), view(tier)
    nodes, begins, hints, size = chains.nodes, chains.begins, chains.hints, tier.blocks
    generated = np.zeros(capacity, np.bool_)
    node_of = np.full(capacity, -1, np.int64)
    was_generated = np.zeros(index.first.size, np.bool_)
    blank = np.arange(capacity)
    blanks = capacity
    table = np.empty(capacity, np.int64)
    before, before_begin, before_start, before_end = -1, 0, 0, 0  # the request before, and the chunks that it used
    for row in range(begins.size - 1):
        begin, cached = begins[row], begins[row + 1] - begins[row]
        need, limit, prompt = chains.need[row], chains.hittable[row], chains.prompt[row]
        chunks = prompt // size
        rejected = need > capacity
        hit = 0
        while not rejected and hit < limit and index.first[nodes[begin + hit]] >= 0:
            hit += 1
        # What CPU memory has after it; a chunk that is still written makes the request wait for a step.
        start = hit // size
        end = start
        waits = False
        while not rejected and end < chunks and tier.holds(nodes[begin + (end + 1) * size - 1]):
            waits |= not tier.is_written(nodes[begin + (end + 1) * size - 1])
            end += 1
        external = end * size - hit
        if end == start or external < size:
            external, end = 0, start
        found = hit + external
        known = found
        while known < limit and index.first[nodes[begin + known]] != -1:
            known += 1
        out[row, HIT] = found
        out[row, EXTERNAL] = external
        out[row, COLD] = max(0, limit - known)
        out[row, MISSED] = known - found
        out[row, BY] = -1
        reason = 0
        for place in range(found, known):
            last = (place // size + 1) * size - 1
            state = tier.state[nodes[begin + last]] if last < prompt else 0
            if state != _HELD:
                reason = state
            out[row, GONE if reason == _GONE else NEVER] += 1
        if rejected:
            continue
        if known > found:
            by = -2 - index.first[nodes[begin + found]]
            out[row, BY] = by if by >= 0 else -1
        out[row, ALLOCATED] = need - hit
        index.request = row
        policy.serving(chains.category[row])
        session_end, next_turn, priority, retention = hints[row]
        facts = RequestFacts(chains.arrival_ms[row], prompt, hit, session_end, next_turn, priority, retention)
        policy.serves(facts)
        policy.started(row, limit)
        for i in range(hit):
            block = index.first[nodes[begin + i]]
            table[i] = block
            out[row, GENERATED] += generated[block]
            index.touch(policy, block, False)
        for chunk in range(start, end):
            node = nodes[begin + (chunk + 1) * size - 1]
            tier.load(node, row)
            if not waits:
                tier.find(node, row, chunk)
        tier.counts[LOADED] += external
        done = hit
        for i in range(hit, need):
            if blanks:
                blanks -= 1
                table[i] = blank[blanks]
            else:
                table[i] = index.evict(policy)
                was_generated[node_of[table[i]]] = generated[table[i]]
            full = done
            if i + 1 >= chains.prompt_need[row]:
                full = min(cached, i + 1)
            elif i + 1 == found:
                full = found
            for j in range(done, full):
                node = nodes[begin + j]
                index.cache(policy, table[j], node, nodes[begin + j - 1] if j else -1, False)
                generated[table[j]] = was_generated[node] if j < found else j >= prompt
                out[row, GENERATED] += j < found and was_generated[node]
                node_of[table[j]] = node
            done = full
        # The first step of a request that neither loads nor waits is the one that ends the one before.
        if external or waits:
            tier.finish(nodes, before, before_begin, before_start, before_end)
            before = -1
        if waits:
            for chunk in range(start, end):
                tier.find(nodes[begin + (chunk + 1) * size - 1], row, chunk)
        first = end if external else 0
        wanted = 0
        for chunk in range(first, chunks):
            node = nodes[begin + (chunk + 1) * size - 1]
            tier.offered[node] = row
            wanted += not tier.holds(node)
            if tier.holds(node) and tier.is_written(node):
                tier.find(node, row, chunk)
        excess = wanted + tier.line.size - tier.chunks
        if wanted and excess > 0 and not tier.can_evict(excess, row):  # it is offered again in the next step
            tier.finish(nodes, before, before_begin, before_start, before_end)
            before = -1
        if wanted and excess > 0:
            tier.evict(excess, row)
        for chunk in range(first, chunks):
            node = nodes[begin + (chunk + 1) * size - 1]
            if not tier.holds(node):
                tier.store(node, row, chunk)
            elif tier.is_written(node):
                tier.user[node] = row
        tier.finish(nodes, before, before_begin, before_start, before_end)
        before, before_begin, before_start, before_end = row, begin, start if external else 0, chunks
        tier.writing = row if outputs[row] <= 1 else -1
        for i in range(need - 1, -1, -1):
            if i < cached:
                index.release(policy, table[i])
            else:
                blank[blanks] = table[i]
                blanks += 1
        index.settle(policy)


def simulate_tiers(
    chains: Chains,
    outputs: Array,
    policy: str,
    capacity: int | None,
    chunks: int,
    chunk_blocks: int,
    params: dict[str, Any] | None = None,
    seed: int = 0,
    tier_class: type[ChunkTier] = ChunkTier,
) -> tuple[Run, TierRun]:
    """Runs the requests through both tiers, CPU memory as vLLM 0.32 has it.

    Args:
        chains: the requests.
        outputs: [requests], generated tokens.
        policy: of the GPU's cache: a name or `module:Class`.
        capacity: usable blocks of the GPU; None: no block is ever evicted.
        chunks: that CPU memory holds, by vLLM's lru.
        chunk_blocks: blocks a chunk.
        params: the policy's parameters.
        seed: for policies that draw.
        tier_class: what CPU memory is.

    Raises:
        ValueError: a value is out of range, or a prompt has more chunks than CPU memory holds.
    """
    capacity = max(1, int(chains.need.sum())) if capacity is None else capacity
    needed = int(chains.prompt.max(initial=0)) // chunk_blocks
    if chunks < needed:
        raise ValueError(
            f"kv_offloading_size holds {chunks} chunks, and the longest prompt has {needed}; allowed: as many"
        )
    ranker = make_policy(policy, make_context(chains, policy, capacity, seed), params)
    index = PrefixIndex(capacity, chains.working_set, ranker, recycle=False)
    tier = tier_class(chunks, chunk_blocks, chains.working_set)
    out = np.zeros((chains.need.size, 10), np.int64)
    if is_compiled(type(ranker)):
        serve_tiers(native(index), native(ranker), native(tier), chains, outputs, capacity, out)
    else:
        serve_tiers.py_func(index, ranker, tier, chains, outputs, capacity, out)
    hit, generated, cold, missed, by, allocated, external, gone, pending, never = (
        np.ascontiguousarray(column) for column in out.T
    )
    evicted, orphans = int(index.counts[EVICTED]), int(index.counts[ORPHANS])
    rejected = chains.need > capacity
    stored, loaded, wasted = (int(count) for count in tier.counts)
    unused = wasted + chunk_blocks * int(((tier.state == _HELD) & ~tier.was_loaded).sum())
    run = Run(hit, generated, cold, missed, by, allocated, rejected, evicted, orphans)
    return run, TierRun(external, gone, pending, never, stored, loaded, unused)


simulate_ranked_tiers = partial(simulate_tiers, tier_class=RankedTier)
"""The same, CPU memory as vLLM 0.33 has it."""
