"""LRU at every capacity in one pass.

A block is hit from some capacity on; `lru_levels` finds that capacity for each block that a request asks for. After a
request a cache of c blocks holds the c - u blocks released last, where u is 1 if the request left a block without a
hash (a partial one, which is taken first) and else 0: so the capacity is the block's rank by release, plus u
(Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 1970, with the tail of a chain
released first).

Copies of a node (vLLM's rules alone make them) need more. A request finds the copy that was cached first. A cache that
holds two keeps the second in its place; a smaller one, which has evicted the first, moves the second to the top. So
after such a hit the copy that is left exists from some capacity on only. It is pinned to that level, which counts for
older blocks from there on, until it would be evicted there: then it is a block as others. No request finds it again, as
the copy that was cached first is above it from then on: each copy is looked at once.

Exact for capacities that reject no request. Each smaller one rejects other requests, so that it has another history.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from vllm_sim.eviction.chains import Array, Chains
from vllm_sim.eviction.compiled import native, view
from vllm_sim.eviction.lru_stack import Stack

NEVER = 2**62


class MissRatioCurve(NamedTuple):
    """What LRU does at each capacity; arrays of one length. Every capacity from the largest request to the one from
    which on nothing changes any more."""

    capacity_blocks: Array
    hit_blocks: Array
    hit_tokens: Array
    request_hit_rate: npt.NDArray[np.float64]
    """Mean over requests of hit tokens / prompt tokens."""
    evicted_blocks: Array
    """The warm-up's too."""


def lru_curve(chains: Chains, prompt_tokens: Array, block_size: int, warmup: float = 0.0) -> MissRatioCurve:
    """What `simulate(chains, "lru", capacity)` gives at every capacity that rejects no request.

    Args:
        chains: the requests.
        prompt_tokens: of each request.
        block_size: tokens a block.
        warmup: the share of the requests, from the first one on, whose hits are not counted.
    """
    levels = lru_levels(chains)
    rows = np.repeat(np.arange(chains.hittable.size), chains.hittable)
    place = np.arange(rows.size) - (np.cumsum(chains.hittable) - chains.hittable)[rows]
    least = int(chains.need.max(initial=1))
    most = max(least, int(levels[levels < NEVER].max(initial=0)))

    def from_capacity(weights: npt.NDArray[Any], counted: npt.NDArray[np.bool_]) -> Any:
        steps = np.bincount(np.maximum(levels[counted], least) - least, weights[counted], most - least + 1)
        return np.cumsum(steps)

    found = levels < NEVER
    measured = found & (rows >= int(chains.need.size * warmup))
    # The last block of raw ones may be a partial tail.
    tokens = np.minimum(block_size, prompt_tokens[rows] - place * block_size)
    hits = np.rint(from_capacity(np.ones(rows.size), found)).astype(np.int64)
    capacity = np.arange(least, most + 1)
    left_blank = int(chains.need[-1] - np.diff(chains.begins)[-1]) if chains.need.size else 0
    return MissRatioCurve(
        capacity,
        np.rint(from_capacity(np.ones(rows.size), measured)).astype(np.int64),
        np.rint(from_capacity(tokens, measured)).astype(np.int64),
        from_capacity(tokens / prompt_tokens[rows], measured)
        / max(1, chains.need.size - int(chains.need.size * warmup)),
        np.maximum(0, chains.nodes.size - hits - (capacity - left_blank)),
    )


def lru_levels(chains: Chains) -> Array:
    """The least capacity at which LRU hits a block, of those that reject no request; NEVER where there is none.

    Returns:
        A level for each block that can be hit, request after request, ascending in a request; [sum of hittable].
    """
    levels = np.full(int(chains.hittable.sum()), NEVER)
    stack = Stack(chains.nodes.size, chains.working_set)
    _measure(native(stack), chains, levels)
    return levels


@numba.njit(cache=True)
def _measure(stack: Any, chains: Any, levels: Any) -> None:
    stack = view(stack)
    nodes, begins = chains.nodes, chains.begins
    table = np.empty(nodes.size, np.int64)
    out = 0
    for row in range(chains.need.size):
        begin, cached, limit = begins[row], begins[row + 1] - begins[row], chains.hittable[row]
        stack.begin()
        known, level = 0, 0
        while known < limit and stack.oldest[nodes[begin + known]] >= 0:
            level = max(level, stack.find(nodes[begin + known]))
            levels[out + known] = level
            known += 1
        out += limit
        for i in range(cached):
            node = nodes[begin + i]
            table[i] = stack.take(node) if i < known else stack.make(node)
        for i in range(cached - 1, -1, -1):
            stack.release(table[i])
        stack.blank = chains.need[row] - cached
