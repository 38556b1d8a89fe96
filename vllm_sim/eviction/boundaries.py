"""Which cached blocks no hit can use, where groups of layers keep different parts of a prefix.

A prefix is hit at a boundary: a length at which each group has what it needs of it. A group of full attention needs all
blocks up to there, a sliding window its last blocks, a chunked layer those of the boundary's chunk, a state one block.
A block is dead if no boundary needs it: its eviction changes no hit. What evicts asks for dead blocks first, and only
then a policy. Evicting a block that is needed ends boundaries, and what these alone needed is dead from then on.

Prefixes are a tree (boundary_tree.py), which the compiled cache of groups reads as it is; here its prefixes have names.
Not known: what vLLM learns of dead blocks, as a full group that is longer than its windows tells it where two prompts
part (Request.shared_prefix_boundary).

Faithful to vLLM 0.32 (v1/core/single_type_kv_cache_manager.py, find_longest_cache_hit of each manager, read).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.boundary_tree import GONE, ROOT, SPARE, BoundaryTree, Keeps
from vllm_sim.eviction.compiled import native, view

_FIRST_PREFIXES = 1024


class Boundaries:
    """The boundaries of what is cached, and the dead blocks among those that no request uses.

    Args:
        groups: what each group needs.
        alignment_units: every boundary is a multiple of it.
        blocks: their numbers are below this.
    """

    def __init__(self, groups: Sequence[Keeps], alignment_units: int, blocks: int):
        self._groups, self._alignment, self._blocks = groups, alignment_units, blocks
        self.clear()

    def clear(self) -> None:
        """Nothing is cached."""
        self._prefixes: dict[bytes, int] = {}
        self._names: list[bytes] = [b""]
        """Of the prefixes, by number."""
        self._unused: list[int] = []
        self._tree = self._make(_FIRST_PREFIXES, self._blocks)
        self._state: Any = native(self._tree)

    def first_dead(self) -> int | None:
        """The block that has been dead and idle for longest, the end of a prefix first; None: there is none."""
        block = int(self._tree.first_dead())
        return None if block < 0 else block

    def dead(self) -> list[int]:
        """All blocks that are dead and idle."""
        found, line = [], self._tree.dead
        block = int(line.after[line.end])
        while block != line.end:
            found.append(block)
            block = int(line.after[block])
        return found

    def add(self, names: Sequence[bytes], depth: int, group: int, block: int) -> None:
        """A block in use is cached for a prefix.

        Args:
            names: of the prefixes of one unit, two units and so on; `depth` of them at least.
            depth: units of the prefix.
            group: of the block.
            block: its number.
        """
        known = depth
        while known and names[known - 1] not in self._prefixes:
            known -= 1
        path = [self._prefixes[names[known - 1]] if known else ROOT]
        path += [self._number(names[place]) for place in range(known, depth)]
        self._make_room()
        _add(self._state, np.array(path), group, block)

    def copy(self, block: int, other: int) -> None:
        """Another block is cached for all that a block is."""
        self._make_room()
        _copy(self._state, block, other)

    def remove(self, block: int) -> None:
        """A block is cached no longer."""
        _remove(self._state, block)
        gone = self._tree.gone[: self._tree.counts[GONE]].tolist()
        self._tree.counts[GONE] = 0
        for prefix in gone:
            del self._prefixes[self._names[prefix]]
        self._unused += gone

    def release(self, blocks: Iterable[int]) -> None:
        """No request uses these cached blocks any more; of a prefix the end comes first."""
        _release(self._state, np.array(list(blocks), np.int64))

    def touch(self, block: int) -> None:
        """A cached block is used again."""
        _touch(self._state, block)

    def _number(self, name: bytes) -> int:
        if self._unused:
            prefix = self._unused.pop()
            self._names[prefix] = name
        else:
            prefix = len(self._names)
            self._names.append(name)
        self._prefixes[name] = prefix
        return prefix

    def _make_room(self) -> None:
        """Makes the tree larger if it may lack prefixes, or places for a block more."""
        prefixes, places = self._tree.parent.size, self._tree.key.size
        if len(self._names) <= prefixes and self._tree.counts[SPARE] >= self._alone():
            return
        while prefixes < len(self._names):
            prefixes *= 2
        if self._tree.counts[SPARE] < self._alone():
            places *= 2
        tree = self._make(prefixes, places)
        for name, old in vars(self._tree).items():
            if isinstance(old, np.ndarray) and name not in ("stack", "spare", "counts"):
                vars(tree)[name][: old.size] = old
        spare, new = self._tree.counts[SPARE], places - self._tree.key.size
        tree.spare[:new] = np.arange(self._tree.key.size, places)
        tree.spare[new : new + spare] = self._tree.spare[:spare]
        tree.counts[SPARE] = new + spare
        tree.dead.after[:] = self._tree.dead.after
        tree.dead.before[:] = self._tree.dead.before
        self._tree, self._state = tree, native(tree)

    def _alone(self) -> int:
        """Places that a block may take at once."""
        return max(keeps.block_units for keeps in self._groups)

    def _make(self, prefixes: int, places: int) -> BoundaryTree:
        return BoundaryTree(self._groups, self._alignment, prefixes, self._blocks, max(places, self._alone()), True)


@numba.njit(cache=True)
def _add(state: Any, path: Any, group: int, block: int) -> None:
    tree = view(state)
    for place in range(1, path.size):
        tree.attach(path[place], path[place - 1])
    tree.put(path[-1], group, block)


@numba.njit(cache=True)
def _copy(state: Any, block: int, other: int) -> None:
    view(state).copy(block, other)


@numba.njit(cache=True)
def _remove(state: Any, block: int) -> None:
    view(state).remove(block)


@numba.njit(cache=True)
def _release(state: Any, blocks: Any) -> None:
    tree = view(state)
    for block in blocks:
        tree.release(block)


@numba.njit(cache=True)
def _touch(state: Any, block: int) -> None:
    view(state).touch(block)
