"""The index and a policy for a caller in plain Python: nodes by name, blocks in batches, one compiled call for many.

What happens is noted, in its order, and the policy hears of it by one call, when a block is to be evicted or something
is read: a call of compiled code takes about as long as telling it of ten blocks.

A policy that is not compiled runs as plain Python here too, with the same functions.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.block_hash_table import MOST_BYTES, BlockHashTable, number, unused
from vllm_sim.eviction.compiled import compiled, is_compiled, native, view
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import EVICTED, ORPHANS, PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.trace.hints import NO_HINTS

UNKNOWN = RequestFacts(math.nan, 0, 0, *NO_HINTS)
"""Of a request of which a caller says nothing."""


def online_context(policy: str, blocks: int, params: dict[str, Any] | None = None, seed: int = 0) -> PolicyContext:
    """PolicyContext for nodes whose numbers are used again: cached ones, ghosts, and parents of cached ones.

    As many nodes as there are blocks can become ghosts beyond the policy's limit, until a request is released. Those
    have the numbers of parents that are not cached, which are few: where numbers run out, ghosts are forgotten sooner.
    """
    ghosts = make_policy(policy, PolicyContext(blocks, 1, seed=seed), params).ghosts
    return PolicyContext(blocks, 2 * blocks + ghosts + 1, seed=seed)


SERVE, TOUCH, CACHE, RELEASE, DROP, TAKE = range(6)
"""Kinds of events."""
MOST_NOTED = 20_000
"""Numbers that are noted at most, to bound their memory."""


@compiled
class _OnlineState:
    """An index, its policy, and the numbers of nodes: a compiled function is called fastest with one structure."""

    def __init__(self, index: PrefixIndex, policy: Policy, table: Any):
        self.index = index
        self.policy = policy
        self.table = table


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
        heard = ("serving", "serves", "started")
        self.hears_requests = any(getattr(type(ranker), name) is not getattr(Policy, name) for name in heard)
        """Whether `serve` makes a difference to the policy."""
        self._index = PrefixIndex(context.blocks + 1, context.nodes, ranker, recycle=numbers is None)
        self._numbers = numbers
        self._compiled = is_compiled(type(ranker))
        state = _OnlineState(self._index, ranker, native(BlockHashTable(self._index)))
        self._state: Any = native(state) if self._compiled else state
        self._events: list[int] = []
        self._facts: list[float] = []
        """Of the requests that are served by the events."""
        self._names: list[Any] = []
        """Of the nodes that are cached by the events; with `numbers` their numbers."""
        self._name_bytes = 0
        """Of every name, once one was given."""

    @property
    def evicted_blocks(self) -> int:
        return int(self._heard().counts[EVICTED])

    @property
    def orphan_blocks(self) -> int:
        return int(self._heard().counts[ORPHANS])

    def caches(self, block: int) -> bool:
        return bool(self._heard().node[block] >= 0)

    def holds(self, block: int) -> bool:
        """Whether a block is cached and nobody uses it."""
        index = self._heard()
        return bool(index.node[block] >= 0 and index.stamp[block] > 0)

    def held(self) -> list[int]:
        """Blocks that are cached and not in use, the first released first."""
        index = self._heard()
        blocks = np.flatnonzero((index.node >= 0) & (index.stamp > 0))
        return blocks[np.argsort(index.stamp[blocks])].tolist()

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
        self._facts += facts
        self._note(SERVE, (category, request, hittable))

    def touch(self, blocks: Sequence[int], again: bool) -> None:
        """Cached blocks are used by a request; again: by a preempted one that returns."""
        self._note(TOUCH, blocks, again)

    def cache(self, blocks: Sequence[int], names: Sequence[bytes], parent: bytes | None, again: bool) -> None:
        """Blocks in use are cached, each the child of the one before it; parent: of the first one, None for none."""
        if parent is not None:
            names = [parent, *names]
        self._names += names if self._numbers is None else self._numbers(list(names)).tolist()
        self._note(CACHE, blocks, again, parent is not None)

    def release(self, blocks: Sequence[int]) -> None:
        """No request uses these cached blocks of a request any more; of a chain the tail comes first."""
        self._note(RELEASE, blocks)

    def evict(self, count: int) -> list[int]:
        """Blocks to be used again, as the policy chooses; so many must be held.

        Raises:
            ValueError: a block was released that is not cached, a name has another length than vLLM's hashes or than
                those before it, or the policy gave what it must not.
        """
        blocks = np.empty(count, np.int64)
        self._hear(blocks)
        return blocks.tolist()

    def take(self, block: int) -> None:
        """A block that is held is evicted, and its policy did not choose it."""
        self._note(TAKE, (block,))

    def drop(self, block: int) -> None:
        """A block is cached no longer, and not by an eviction."""
        self._note(DROP, (block,))

    def _note(self, kind: int, numbers: Sequence[int], again: bool = False, has_parent: bool = False) -> None:
        events = self._events
        events += (kind, len(numbers), again, has_parent)
        events += numbers
        if len(events) > MOST_NOTED:
            self._hear(_NONE)

    def _heard(self) -> PrefixIndex:
        """The index, with all that has happened."""
        if self._events:
            self._hear(_NONE)
        return self._index

    def _hear(self, evicted: np.ndarray) -> None:
        """Tells of all that was noted, and then evicts so many blocks."""
        events, facts, names = self._events, self._facts, self._names
        self._events, self._facts, self._names = [], [], []
        noted = _packed(events, _INT) if events else _NO_EVENTS
        said = _packed(facts, _DOUBLE) if facts else _NO_FACTS
        words = self._words(names) if names else _NO_WORDS
        self._call(_hear, noted, said, words, self._name_bytes // 8, evicted)

    def _words(self, names: list[Any]) -> np.ndarray:
        if self._numbers is not None:
            return _packed(names, _LONG)
        text = b"".join(names)
        size = self._name_bytes = self._name_bytes or len(names[0])
        if len(text) != size * len(names) or size not in range(8, MOST_BYTES + 1, 8):
            found = ", ".join(sorted({str(len(name)) for name in names}))
            raise ValueError(f"block hashes of {found} bytes; allowed: 8, 16, 24 or 32 bytes, and all of them alike")
        return np.frombuffer(text, _LONG)

    def _call(self, function: Any, *arguments: Any) -> None:
        if not self._compiled:
            function = function.py_func
        function(self._state, *arguments)


def _packed(numbers: Sequence[float], kind: np.dtype[Any]) -> np.ndarray:
    """An array of numbers; four times as fast as numpy makes one of a list."""
    return np.frombuffer(struct.pack(f"{len(numbers)}{kind.char}", *numbers), kind)


_INT, _DOUBLE, _LONG = np.dtype(np.int32), np.dtype(np.float64), np.dtype(np.int64)
_NONE = np.empty(0, np.int64)
# Not to be written, as what is packed: numba would compile once more for arrays that may be.
_NO_EVENTS, _NO_FACTS, _NO_WORDS = (np.frombuffer(bytes(8), kind)[:0] for kind in (_INT, _DOUBLE, _LONG))


@numba.njit(cache=True)
def _hear(state: Any, events: Any, facts: Any, words: Any, size: int, evicted: Any) -> None:
    """Tells the index and the policy what has happened, and evicts.

    Args:
        state: of an OnlineCache.
        events: of each its kind, how many numbers follow, whether it is of a preempted request that returns, whether
            the first node has a parent; then the numbers: of blocks, or what `serve` gets but for the facts.
        facts: RequestFacts of the requests that are served, one after the other.
        words: names of the nodes that are cached, after their parents'; with `size` 0 their numbers.
        size: words of a name.
        evicted: written; blocks to be used again.
    """
    index, policy, table = view(state).index, view(state).policy, view(state).table
    at = name = fact = 0
    while at < events.size:
        kind, count, again, parents = events[at], int(events[at + 1]), bool(events[at + 2]), int(events[at + 3])
        at += 4
        if kind == TOUCH:
            for i in range(at, at + count):
                index.touch(policy, int(events[i]), again)
        elif kind == CACHE:
            nodes = np.empty(count + parents, np.int64)
            if size:
                while index.ghost.size and unused(table) < nodes.size:
                    index.forget_ghost(policy)
                number(table, words[name * size : (name + nodes.size) * size], nodes)
            else:
                nodes[:] = words[name : name + nodes.size]
            name += nodes.size
            for i in range(count):
                place = i + parents
                parent = nodes[place - 1] if place else -1
                index.cache(policy, int(events[at + i]), nodes[place], parent, again)
        elif kind == RELEASE:
            for i in range(at, at + count):
                block = int(events[i])
                if index.node[block] < 0:
                    raise ValueError("a block that is not cached cannot be held")
                index.release(policy, block)
            index.settle(policy)
        elif kind == SERVE:
            policy.serving(int(events[at]))
            hints = facts[fact + 3], facts[fact + 4], facts[fact + 5], facts[fact + 6]
            policy.serves(RequestFacts(facts[fact], int(facts[fact + 1]), int(facts[fact + 2]), *hints))
            fact += 7
            if events[at + 1] >= 0:
                policy.started(int(events[at + 1]), int(events[at + 2]))
        elif kind == DROP:
            block = int(events[at])
            if not index.is_copied(block):
                policy.dropped(index.node[block])
            index.drop(policy, block)
        else:
            index.counts[EVICTED] += 1
            index.drop(policy, int(events[at]))
        at += count
    for i in range(evicted.size):
        evicted[i] = index.evict(policy)
