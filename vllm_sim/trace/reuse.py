"""Which request used a prefix last: one pass over the prefixes of a trace, with the memory of the distinct ones.

A prefix ends in a unit of tokens, a hash id or a block. Two requests that share a unit have as much of it in common as
both reach into it. So each unit keeps the requests that reach further into it than all later ones, the last one first;
a request that uses it takes away those that do not reach further than itself.

Memory: about 60 bytes a distinct prefix, and 16 a run of tokens that two requests share.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_NODES, _ENTRIES, _FREE = range(3)


class Rows(NamedTuple):
    """Requests that follow each other, and their units."""

    first: int
    """The number of the first one."""
    names: NDArray[np.int64]
    """Names of the units, request after request: of themselves, or of all that ends in them."""
    offsets: NDArray[np.int64]
    """[rows + 1], into names."""
    roots: NDArray[np.int32]
    """[rows], below 0: prefixes of requests with different roots are different."""
    sizes: NDArray[np.int64]
    """[rows], tokens a unit."""
    ends: NDArray[np.int64]
    """[rows], how many tokens count; the last unit that is begun may be used in part."""


class _Prefixes(NamedTuple):
    """Prefixes are numbered as they come, entries are requests that have used one."""

    slots: Any
    """A hash table with open addressing of prefixes + 1, 0: none."""
    parents: Any
    """[prefixes], the prefix before the last unit, or a root."""
    names: Any
    """[prefixes], of the last unit."""
    last: Any
    """[prefixes], the entry of the last request."""
    rows: Any
    """[entries]."""
    reaches: Any
    """[entries], tokens of the unit."""
    below: Any
    """[entries], the entry before that reaches further, -1: none; of an entry that is free the next free one."""
    counts: Any
    """Prefixes, entries, the first free entry."""


class LastUses:
    """What a trace has used so far."""

    def __init__(self) -> None:
        empty = [np.empty(0, np.int64 if name == "names" else np.int32) for name in _Prefixes._fields[1:-1]]
        self._prefixes = _Prefixes(*[np.zeros(2, np.int32), *empty, np.array([0, 0, -1])])

    def add(self, rows: Rows, is_chained: bool) -> NDArray[np.int32]:
        """Takes the next requests.

        Args:
            rows: the requests.
            is_chained: whether a unit's name is its own, and not that of its whole prefix.

        Returns:
            [runs, 4]: a request, a later one, and from which to which token the first used last what the later one has.
        """
        self._make_room(rows.names.size)
        runs, count = _add(self._prefixes, rows, is_chained, np.empty((rows.sizes.size + 16, 4), np.int32))
        return np.array(runs[:count])

    def distinct_names(self) -> int:
        """How many names of units there are."""
        return len(np.unique(self._prefixes.names[: self._prefixes.counts[_NODES]]))

    def _make_room(self, more: int) -> None:
        state = self._prefixes
        nodes, entries = int(state.counts[_NODES]) + more, int(state.counts[_ENTRIES]) + more
        sizes = dict.fromkeys(("parents", "names", "last"), nodes) | dict.fromkeys(
            ("rows", "reaches", "below"), entries
        )
        arrays = {name: _grown(getattr(state, name), size) for name, size in sizes.items()}
        slots = state.slots
        if slots.size < 2 * nodes:
            slots = np.zeros(2 ** (2 * nodes).bit_length(), np.int32)
        self._prefixes = state._replace(slots=slots, **arrays)
        if slots is not state.slots:
            _place_again(self._prefixes)


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """The array, or a longer one that begins with it."""
    if array.size >= size:
        return array
    longer = np.empty(max(size, 3 * array.size // 2), array.dtype)
    longer[: array.size] = array
    return longer


@numba.njit(cache=True)
def _slot(slots: Any, parent: Any, name: Any) -> Any:
    """Where the search for a prefix begins."""
    mixed = (np.uint64(parent) * _ODD) ^ np.uint64(name)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _MIX
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(slots.size - 1))


@numba.njit(cache=True)
def _place_again(state: Any) -> None:
    """Puts the prefixes into an empty table."""
    slots = state.slots
    for node in range(state.counts[_NODES]):
        slot = _slot(slots, state.parents[node], state.names[node])
        while slots[slot]:
            slot = (slot + 1) & (slots.size - 1)
        slots[slot] = node + 1


@numba.njit(cache=True)
def _find(state: Any, parent: Any, name: Any) -> Any:
    """The number of a prefix, a new one where there is none."""
    slots, parents, names = state.slots, state.parents, state.names
    slot = _slot(slots, parent, name)
    while slots[slot]:
        node = slots[slot] - 1
        if parents[node] == parent and names[node] == name:
            return node
        slot = (slot + 1) & (slots.size - 1)
    node = np.int32(state.counts[_NODES])
    state.counts[_NODES] += 1
    parents[node], names[node], state.last[node] = parent, name, -1
    slots[slot] = node + 1
    return node


@numba.njit(cache=True)
def _push(state: Any, node: Any, below: Any, row: Any, reach: Any) -> None:
    """Puts an entry on top of another."""
    entry = state.counts[_FREE]
    if entry >= 0:
        state.counts[_FREE] = state.below[entry]
    else:
        entry = state.counts[_ENTRIES]
        state.counts[_ENTRIES] += 1
    state.rows[entry], state.reaches[entry], state.below[entry] = row, reach, below
    state.last[node] = entry


@numba.njit(cache=True)
def _add(state: Any, requests: Any, is_chained: Any, runs: Any) -> Any:
    """As `LastUses.add`; runs is replaced where it is too short, and counted."""
    rows, reaches, below = state.rows, state.reaches, state.below
    offsets, count = requests.offsets, 0
    for place in range(offsets.size - 1):
        row, parent, size, end = (
            requests.first + place,
            requests.roots[place],
            requests.sizes[place],
            requests.ends[place],
        )
        is_open = False
        for at in range(offsets[place], offsets[place + 1]):
            begin = (at - offsets[place]) * size
            reach = min(size, end - begin)
            if reach <= 0:
                break
            node = _find(state, parent, requests.names[at])
            if is_chained:
                parent = node
            done, entry = 0, state.last[node]
            while entry >= 0 and done < reach:
                upto = min(reaches[entry], reach)
                if is_open and runs[count - 1, 0] == rows[entry] and runs[count - 1, 3] == begin + done:
                    runs[count - 1, 3] = begin + upto
                else:
                    if count == runs.shape[0]:
                        longer = np.empty((2 * count, 4), np.int32)
                        longer[:count] = runs
                        runs = longer
                    runs[count, 0], runs[count, 1] = rows[entry], row
                    runs[count, 2], runs[count, 3] = begin + done, begin + upto
                    count, is_open = count + 1, True
                done = upto
                if reaches[entry] > reach:
                    break
                free, entry = entry, below[entry]
                below[free] = state.counts[_FREE]
                state.counts[_FREE] = free
            _push(state, node, entry, row, reach)
    return runs, count
