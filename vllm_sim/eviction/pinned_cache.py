"""An online cache of which some blocks must stay for a while, whatever the policy says: they are used, or in a copy.

A block that must stay is set aside while another is chosen, and then stands where it stood. A block with a cached child
that must stay stays too, since only leaves are evicted; but under a policy that is `in_order`, which takes the block
that was released first, whoever continues it.
"""

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.compiled import view
from vllm_sim.eviction.online_cache import OnlineCache
from vllm_sim.eviction.prefix_index import EVICTED


class PinnedCache(OnlineCache):
    """As OnlineCache, and evicts past blocks that must stay."""

    def evict_past(self, count: int, stays: Callable[[int], bool]) -> list[int] | None:
        """Blocks to be used again, as the policy chooses among those that need not stay.

        Returns:
            So many, or None where there are fewer; then nothing has changed.
        """
        if count > self._evictable(stays):
            return None
        found: list[int] = []
        aside: list[int] = []
        while len(found) < count:
            block = int(self._function(_victim)(self._state))
            if stays(block):
                self._call(_set_aside, block)
                aside.append(block)
            else:
                self._call(_take, block)
                found.append(block)
        for block in reversed(aside):
            self._call(_put_back, block)
        return found

    def _evictable(self, stays: Callable[[int], bool]) -> int:
        """How many blocks can be evicted, one after the other."""
        index = self._index
        held = self.held()
        staying = {block for block in held if stays(block)}
        if not index.in_order:
            used = np.flatnonzero((index.node >= 0) & (index.stamp == 0)).tolist()
            for block in [*staying, *used]:
                while (parent := index.parent[block]) >= 0 and (block := int(index.first[parent])) >= 0:
                    if block in staying:
                        break
                    staying.add(block)
            staying.difference_update(used)
        return len(held) - len(staying)

    def _function(self, function: Any) -> Any:
        return function if self._compiled else function.py_func


@numba.njit(cache=True)
def _victim(state: Any) -> int:
    return view(state).policy.victim(view(state).index)


@numba.njit(cache=True)
def _take(state: Any, block: int) -> None:
    index, policy = view(state).index, view(state).policy
    index.counts[EVICTED] += 1
    index.drop(policy, block)


@numba.njit(cache=True)
def _set_aside(state: Any, block: int) -> None:
    view(state).index.withdraw(block)


@numba.njit(cache=True)
def _put_back(state: Any, block: int) -> None:
    index, policy = view(state).index, view(state).policy
    if index.offers(block):  # a policy that moves blocks between queues has offered it already
        return
    if index.in_order:
        line = index.line
        first = line.after[line.end]
        line.after[line.end] = block
        line.before[block] = line.end
        line.after[block] = first
        line.before[first] = block
        line.size += 1
    else:
        index.enter(policy, block)
