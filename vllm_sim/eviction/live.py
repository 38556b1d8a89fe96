"""The book and a policy for a caller in plain Python: nodes by name, blocks in batches, one compiled call for each.

A policy that is not compiled runs as plain Python here too, with the same functions.
"""

from collections.abc import Callable, Hashable
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.book import EVICTED, FORGOTTEN, ORPHANS, Book
from vllm_sim.eviction.compiled import is_compiled, native, view
from vllm_sim.eviction.policy import Room
from vllm_sim.eviction.registry import make_policy


def live_room(policy: str, blocks: int, params: dict[str, Any] | None = None, seed: int = 0) -> Room:
    """Room for nodes whose numbers are used again: cached ones, ghosts, and parents of either.

    Between two calls of `settle` as many nodes as there are blocks can become ghosts beyond the policy's limit.
    """
    ghosts = make_policy(policy, Room(blocks, 1, seed=seed), params).ghosts
    return Room(blocks, 3 * blocks + ghosts, seed=seed)


class LiveBook:
    """Blocks that are cached under the names of their nodes; a block is a number up to `room.blocks`, vLLM's has no 0.

    Args:
        policy: a name or `module:Class`.
        room: for the policy.
        params: the policy's parameters.
        number: the number of a node by its name, below `room.nodes`; None: numbers are given here, and used again.
    """

    def __init__(
        self,
        policy: str,
        room: Room,
        params: dict[str, Any] | None = None,
        number: Callable[[Any], int] | None = None,
    ):
        ranker = make_policy(policy, room, params)
        self._number = number
        self._numbers: dict[Hashable, int] = {}
        self._names: list[Hashable] = [None] * room.nodes
        self._unused = list(range(room.nodes - 1, -1, -1))
        self._book = Book(room.blocks + 1, room.nodes, ranker, recycle=number is None)
        self._compiled = is_compiled(type(ranker))
        self._pair: tuple[Any, Any] = (native(self._book), native(ranker)) if self._compiled else (self._book, ranker)

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

    def serve(self, category: int) -> None:
        self._call(_serve, category)

    def start(self, request: int) -> None:
        self._call(_start, request)

    def touch(self, blocks: list[int], again: bool) -> None:
        """Cached blocks are used by a request; again: by a preempted one that returns."""
        self._call(_touch, np.array(blocks, np.int64), again)

    def cache(self, blocks: list[int], names: list[Any], parent: Any, again: bool) -> None:
        """Blocks in use are cached, each the child of the one before it; parent: of the first one, None for none."""
        find = self._number or self._find
        before = -1 if parent is None else find(parent)
        nodes = np.array([find(name) for name in names], np.int64)
        self._call(_cache, np.array(blocks, np.int64), nodes, before, again)

    def release(self, blocks: list[int]) -> None:
        """Nobody uses these cached blocks any more; of a chain the tail comes first."""
        self._call(_release, np.array(blocks, np.int64))

    def settle(self) -> None:
        """Ends the release of a request."""
        self._call(_settle)
        self._collect()

    def evict(self, count: int) -> list[int]:
        """Blocks to be used again, as the policy chooses; so many must be held."""
        blocks = np.empty(count, np.int64)
        self._call(_evict, blocks)
        self._collect()
        return blocks.tolist()

    def drop(self, block: int) -> None:
        """A block is cached no longer, and not by an eviction."""
        self._call(_drop, block)
        self._collect()

    def _call(self, function: Any, *arguments: Any) -> None:
        (function if self._compiled else function.py_func)(*self._pair, *arguments)

    def _find(self, name: Any) -> int:
        """The number of a node, by its name; a new one where it has none."""
        node = self._numbers.get(name)
        if node is None:
            node = self._numbers[name] = self._unused.pop()
            self._names[node] = name
        return node

    def _collect(self) -> None:
        """Takes back the numbers of forgotten nodes."""
        count = self._book.counts[FORGOTTEN]
        if self._number is None and count:
            nodes = self._book.forgotten[:count].tolist()
            numbers, names = self._numbers, self._names
            for node in nodes:
                del numbers[names[node]]
            self._unused += nodes
            self._book.counts[FORGOTTEN] = 0


@numba.njit(cache=True)
def _serve(book: Any, policy: Any, category: int) -> None:
    view(policy).serving(category)


@numba.njit(cache=True)
def _start(book: Any, policy: Any, request: int) -> None:
    view(policy).started(request)


@numba.njit(cache=True)
def _touch(book: Any, policy: Any, blocks: Any, again: bool) -> None:
    book, policy = view(book), view(policy)
    for block in blocks:
        book.touch(policy, block, again)


@numba.njit(cache=True)
def _cache(book: Any, policy: Any, blocks: Any, nodes: Any, parent: int, again: bool) -> None:
    book, policy = view(book), view(policy)
    for i in range(blocks.size):
        book.cache(policy, blocks[i], nodes[i], parent if i == 0 else nodes[i - 1], again)


@numba.njit(cache=True)
def _release(book: Any, policy: Any, blocks: Any) -> None:
    book, policy = view(book), view(policy)
    for block in blocks:
        book.release(policy, block)


@numba.njit(cache=True)
def _settle(book: Any, policy: Any) -> None:
    view(book).settle(view(policy))


@numba.njit(cache=True)
def _evict(book: Any, policy: Any, blocks: Any) -> None:
    book, policy = view(book), view(policy)
    for i in range(blocks.size):
        blocks[i] = book.evict(policy)


@numba.njit(cache=True)
def _drop(book: Any, policy: Any, block: int) -> None:
    view(book).drop(view(policy), block)
