"""The sequential cache under a policy, over arrays: the `fast` backend.

Faithful to vLLM 0.32 (v1/core/kv_cache_manager.py, block_pool.py, read), one request after the other: full blocks only;
a prompt's last token is never hit; the hit blocks are taken before any new one; the prompt's blocks are all taken
before one is cached, a generated block is cached before the next is taken; of P prompt and O generated tokens
floor((P+O-1)/B) blocks are cached; blocks are released tail first; a block without a hash is taken before a cached
one. Not faithful: no batch, no chunks, no preemption. A request that needs more blocks than there are is rejected and
changes nothing.
"""

from typing import Any, NamedTuple

import numba
import numpy as np

from vllm_sim.eviction.compiled import view
from vllm_sim.eviction.policy import RequestFacts

# Columns of what is written for each request, in blocks; BY is a row, -1 for none.
HIT, GENERATED, COLD, MISSED, BY, ALLOCATED = range(6)


class Slots(NamedTuple):
    """The blocks of a cache besides its index: what a call of `serve` leaves to the next."""

    generated: Any
    """Whether a block was cached with a generated token; [blocks]."""
    blank: Any
    """Blocks without a hash, the one to take next last; [blocks]."""
    blanks: Any
    """How many there are; [1]."""


def empty_slots(capacity: int) -> Slots:
    """Those of a cache that has served no request."""
    return Slots(np.zeros(capacity, np.bool_), np.arange(capacity), np.array([capacity]))


@numba.njit(cache=True, nogil=True)
def serve(index: Any, policy: Any, chains: Any, slots: Any, rows: Any, out: Any) -> None:
    """Serves requests.

    Args:
        index: the index, empty or as the last call left it.
        policy: the policy, compiled as the index is (or both plain, with `serve.py_func`).
        chains: the requests, see chains.py.
        slots: the blocks there are, as the last call left them.
        rows: which requests, in their order.
        out: written; [requests, 6], see the names of its columns.
    """
    index, policy = view(index), view(policy)
    nodes, begins, hints = chains.nodes, chains.begins, chains.hints
    generated, blank, blanks = slots.generated, slots.blank, slots.blanks[0]
    capacity = blank.size
    table = np.empty(capacity, np.int64)
    for row in rows:
        begin, cached = begins[row], begins[row + 1] - begins[row]
        need, limit, prompt = chains.need[row], chains.hittable[row], chains.prompt[row]
        rejected = need > capacity
        hit = 0
        while not rejected and hit < limit and index.first[nodes[begin + hit]] >= 0:
            hit += 1
        known = hit
        while known < limit and index.first[nodes[begin + known]] != -1:
            known += 1
        out[row, HIT] = hit
        out[row, COLD] = limit - known
        out[row, MISSED] = known - hit
        out[row, BY] = -1
        if rejected:
            continue
        if known > hit:
            out[row, BY] = -2 - index.first[nodes[begin + hit]]
        out[row, ALLOCATED] = need - hit
        index.request = row
        policy.serving(chains.category[row])
        end, next_turn, priority, retention = hints[row]
        policy.serves(RequestFacts(chains.arrival_ms[row], prompt, hit, end, next_turn, priority, retention))
        policy.started(row, limit)
        for i in range(hit):
            block = index.first[nodes[begin + i]]
            table[i] = block
            out[row, GENERATED] += generated[block]
            index.touch(policy, block, False)
        done = hit
        for i in range(hit, need):
            if blanks:
                blanks -= 1
                table[i] = blank[blanks]
            else:
                table[i] = index.evict(policy)
            # Nothing is cached until the prompt has its blocks; then each block is, before the next one is taken.
            full = min(cached, i + 1) if i + 1 >= chains.prompt_need[row] else done
            for j in range(done, full):
                node = nodes[begin + j]
                index.cache(policy, table[j], node, nodes[begin + j - 1] if j else -1, False)
                generated[table[j]] = j >= prompt
            done = full
        for i in range(need - 1, -1, -1):
            if i < cached:
                index.release(policy, table[i])
            else:
                blank[blanks] = table[i]
                blanks += 1
        index.settle(policy)
    slots.blanks[0] = blanks
