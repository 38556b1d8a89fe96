"""The book and a policy for a caller in plain Python: nodes by name, blocks in batches, one compiled call for each.

A policy that is not compiled runs as plain Python here too, with the same functions.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.book import EVICTED, ORPHANS, Book
from vllm_sim.eviction.compiled import compiled, is_compiled, native, view
from vllm_sim.eviction.names import Names
from vllm_sim.eviction.policy import Policy, Room
from vllm_sim.eviction.registry import make_policy


def live_room(policy: str, blocks: int, params: dict[str, Any] | None = None, seed: int = 0) -> Room:
    """Room for nodes whose numbers are used again: cached ones, ghosts, and parents of either.

    Until a request is released as many nodes as there are blocks can become ghosts beyond the policy's limit; one more
    number is always unused.
    """
    ghosts = make_policy(policy, Room(blocks, 1, seed=seed), params).ghosts
    return Room(blocks, 3 * blocks + ghosts + 1, seed=seed)


@compiled
class _Pair:
    """A book and its policy: a compiled function is called with one structure faster than with two."""

    def __init__(self, book: Book, policy: Policy):
        self.book = book
        self.policy = policy


class LiveBook:
    """Blocks that are cached under the names of their nodes; a block is a number up to `room.blocks`, vLLM's has no 0.

    Args:
        policy: a name or `module:Class`.
        room: for the policy.
        params: the policy's parameters.
        numbers: the numbers of nodes by their names, below `room.nodes`; None: as `Names` gives them, used again.
    """

    def __init__(
        self,
        policy: str,
        room: Room,
        params: dict[str, Any] | None = None,
        numbers: Callable[[list[bytes]], np.ndarray] | None = None,
    ):
        ranker = make_policy(policy, room, params)
        self._categories = room.categories
        self._book = Book(room.blocks + 1, room.nodes, ranker, recycle=numbers is None)
        self._numbers = numbers or Names(self._book).numbers
        self._compiled = is_compiled(type(ranker))
        pair = _Pair(self._book, ranker)
        self._pair: Any = native(pair) if self._compiled else pair

    @property
    def evicted_blocks(self) -> int:
        return int(self._book.counts[EVICTED])

    @property
    def orphan_blocks(self) -> int:
        return int(self._book.counts[ORPHANS])

    def caches(self, block: int) -> bool:
        return bool(self._book.node[block] >= 0)

    def holds(self, block: int) -> bool:
        """Whether a block is cached and nobody uses it."""
        return bool(self._book.node[block] >= 0 and self._book.stamp[block] > 0)

    def held(self) -> list[int]:
        """Blocks that are cached and not in use, the first released first."""
        blocks = np.flatnonzero((self._book.node >= 0) & (self._book.stamp > 0))
        return blocks[np.argsort(self._book.stamp[blocks])].tolist()

    def serve(self, category: int, request: int, hittable: int) -> None:
        """What follows is for a request.

        Args:
            category: of the request.
            request: its number if it starts, -1 if it is under way.
            hittable: blocks of its prompt that an unlimited cache could hit.

        Raises:
            ValueError: there is no such category.
        """
        if not 0 <= category < self._categories:
            raise ValueError(f"category {category} of a request; allowed: 0 to {self._categories - 1}")
        self._call(_serve, category, request, hittable)

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

    def drop(self, block: int) -> None:
        """A block is cached no longer, and not by an eviction."""
        self._call(_drop, block)

    def _call(self, function: Any, *arguments: Any) -> None:
        if not self._compiled:
            function = function.py_func
        function(self._pair, *arguments)


@numba.njit(cache=True)
def _serve(pair: Any, category: int, request: int, hittable: int) -> None:
    policy = view(pair).policy
    policy.serving(category)
    if request >= 0:
        policy.started(request, hittable)


@numba.njit(cache=True)
def _touch(pair: Any, blocks: Any, again: bool) -> None:
    book, policy = view(pair).book, view(pair).policy
    for block in blocks:
        book.touch(policy, block, again)


@numba.njit(cache=True)
def _cache(pair: Any, blocks: Any, nodes: Any, again: bool) -> None:
    """`nodes` are those of the blocks, after their parent's if there is one."""
    book, policy = view(pair).book, view(pair).policy
    first = nodes.size - blocks.size
    for i in range(blocks.size):
        place = first + i
        book.cache(policy, blocks[i], nodes[place], nodes[place - 1] if place else -1, again)


@numba.njit(cache=True)
def _release(pair: Any, blocks: Any) -> None:
    book, policy = view(pair).book, view(pair).policy
    for block in blocks:
        if book.node[block] < 0:
            raise ValueError("a block that is not cached cannot be held")
        book.release(policy, block)
    book.settle(policy)


@numba.njit(cache=True)
def _evict(pair: Any, blocks: Any) -> None:
    book, policy = view(pair).book, view(pair).policy
    for i in range(blocks.size):
        blocks[i] = book.evict(policy)


@numba.njit(cache=True)
def _drop(pair: Any, block: int) -> None:
    book, policy = view(pair).book, view(pair).policy
    if not book.is_copied(block):
        policy.dropped(book.node[block])
    book.drop(policy, block)
