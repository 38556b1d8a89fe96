"""The index and a policy for a caller in plain Python: nodes by name, blocks in batches, one compiled call for each.

A policy that is not compiled runs as plain Python here too, with the same functions.
"""

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.block_hash_table import BlockHashTable
from vllm_sim.eviction.compiled import compiled, is_compiled, native, view
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import EVICTED, ORPHANS, PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.trace.hints import NO_HINTS

UNKNOWN = RequestFacts(math.nan, 0, 0, *NO_HINTS)
"""Of a request of which a caller says nothing."""


def online_context(policy: str, blocks: int, params: dict[str, Any] | None = None, seed: int = 0) -> PolicyContext:
    """PolicyContext for nodes whose numbers are used again: cached ones, ghosts, and parents of either.

    Until a request is released as many nodes as there are blocks can become ghosts beyond the policy's limit; one more
    number is always unused.
    """
    ghosts = make_policy(policy, PolicyContext(blocks, 1, seed=seed), params).ghosts
    return PolicyContext(blocks, 3 * blocks + ghosts + 1, seed=seed)


@compiled
class _Pair:
    """A index and its policy: a compiled function is called with one structure faster than with two."""

    def __init__(self, index: PrefixIndex, policy: Policy):
        self.index = index
        self.policy = policy


class OnlineCache:
    """Blocks that are cached under the names of their nodes.

    A block is a number from 1 to `context.blocks`; 0 is vLLM's null block.

    Args:
        policy: a name or `module:Class`.
        context: for the policy.
        params: the policy's parameters.
        numbers: gives the numbers of nodes, below `context.nodes`, for their names; None: a `BlockHashTable`, which
            uses numbers again.
    """

    def __init__(
        self,
        policy: str,
        context: PolicyContext,
        params: dict[str, Any] | None = None,
        numbers: Callable[[list[bytes]], np.ndarray] | None = None,
    ):
        ranker = make_policy(policy, context, params)
        self._categories = context.categories
        self._index = PrefixIndex(context.blocks + 1, context.nodes, ranker, recycle=numbers is None)
        self._numbers = numbers or BlockHashTable(self._index).numbers
        self._compiled = is_compiled(type(ranker))
        pair = _Pair(self._index, ranker)
        self._pair: Any = native(pair) if self._compiled else pair

    @property
    def evicted_blocks(self) -> int:
        return int(self._index.counts[EVICTED])

    @property
    def orphan_blocks(self) -> int:
        return int(self._index.counts[ORPHANS])

    def caches(self, block: int) -> bool:
        return bool(self._index.node[block] >= 0)

    def holds(self, block: int) -> bool:
        """Whether a block is cached and nobody uses it."""
        return bool(self._index.node[block] >= 0 and self._index.stamp[block] > 0)

    def held(self) -> list[int]:
        """Blocks that are cached and not in use, the first released first."""
        blocks = np.flatnonzero((self._index.node >= 0) & (self._index.stamp > 0))
        return blocks[np.argsort(self._index.stamp[blocks])].tolist()

    def serve(self, category: int, request: int, hittable: int, facts: RequestFacts = UNKNOWN) -> None:
        """What follows is for a request.

        Args:
            category: of the request.
            request: its number if it starts, -1 if it is under way.
            hittable: blocks of its prompt that an unlimited cache could hit.
            facts: what else is known of it.

        Raises:
            ValueError: there is no such category.
        """
        if not 0 <= category < self._categories:
            raise ValueError(f"category {category} of a request; allowed: 0 to {self._categories - 1}")
        self._call(_serve, category, request, hittable, facts)

    def touch(self, blocks: list[int], again: bool) -> None:
        """Cached blocks are used by a request; again: by a preempted one that returns."""
        self._call(_touch, np.array(blocks, np.int64), again)

    def cache(self, blocks: list[int], names: list[bytes], parent: bytes | None, again: bool) -> None:
        """Blocks in use are cached, each the child of the one before it; parent: of the first one, None for none."""
        nodes = self._numbers(names if parent is None else [parent, *names])
        self._call(_cache, np.array(blocks, np.int64), nodes, again)

    def release(self, blocks: list[int]) -> None:
        """Nobody uses these cached blocks of a request any more; of a chain the tail comes first."""
        self._call(_release, np.array(blocks, np.int64))

    def evict(self, count: int) -> list[int]:
        """Blocks to be used again, as the policy chooses; so many must be held."""
        blocks = np.empty(count, np.int64)
        self._call(_evict, blocks)
        return blocks.tolist()

    def take(self, block: int) -> None:
        """A block that is held is evicted, and its policy did not choose it."""
        self._index.counts[EVICTED] += 1
        self._call(_take, block)

    def drop(self, block: int) -> None:
        """A block is cached no longer, and not by an eviction."""
        self._call(_drop, block)

    def _call(self, function: Any, *arguments: Any) -> None:
        if not self._compiled:
            function = function.py_func
        function(self._pair, *arguments)


@numba.njit(cache=True)
def _serve(pair: Any, category: int, request: int, hittable: int, facts: RequestFacts) -> None:
    policy = view(pair).policy
    policy.serving(category)
    policy.serves(facts)
    if request >= 0:
        policy.started(request, hittable)


@numba.njit(cache=True)
def _touch(pair: Any, blocks: Any, again: bool) -> None:
    index, policy = view(pair).index, view(pair).policy
    for block in blocks:
        index.touch(policy, block, again)


@numba.njit(cache=True)
def _cache(pair: Any, blocks: Any, nodes: Any, again: bool) -> None:
    """`nodes` are those of the blocks, after their parent's if there is one."""
    index, policy = view(pair).index, view(pair).policy
    first = nodes.size - blocks.size
    for i in range(blocks.size):
        place = first + i
        index.cache(policy, blocks[i], nodes[place], nodes[place - 1] if place else -1, again)


@numba.njit(cache=True)
def _release(pair: Any, blocks: Any) -> None:
    index, policy = view(pair).index, view(pair).policy
    for block in blocks:
        if index.node[block] < 0:
            raise ValueError("a block that is not cached cannot be held")
        index.release(policy, block)
    index.settle(policy)


@numba.njit(cache=True)
def _evict(pair: Any, blocks: Any) -> None:
    index, policy = view(pair).index, view(pair).policy
    for i in range(blocks.size):
        blocks[i] = index.evict(policy)


@numba.njit(cache=True)
def _take(pair: Any, block: int) -> None:
    view(pair).index.drop(view(pair).policy, block)


@numba.njit(cache=True)
def _drop(pair: Any, block: int) -> None:
    index, policy = view(pair).index, view(pair).policy
    if not index.is_copied(block):
        policy.dropped(index.node[block])
    index.drop(policy, block)
