"""The tree of prefixes in which boundaries.py finds dead blocks, compiled: prefixes and blocks are numbers.

Edges are units of tokens. Of each prefix only the distance to the nearest boundary at or below it is kept: whether a
block of any group is needed follows from that. The rules are in boundaries.py.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.linked_list import LinkedList

ROOT = 0
"""The empty prefix; the others are numbers from 1 on."""
NONE = 2**30
"""The distance where no boundary follows."""
SPARE, GONE = range(2)
"""Places in BoundaryTree.counts."""


class Keeps(NamedTuple):
    """What a group needs of a prefix, for it to be hit at a boundary."""

    block_units: int
    """Units of a block."""
    last_blocks: int | None = None
    """Of a sliding window, or 1 of a state: so many blocks that end at the boundary. None: all of them."""
    chunk_units: int = 0
    """Above 0, only those that the boundary's chunk has; `last_blocks` is then the most of them."""


@compiled
class BoundaryTree:
    """Prefixes for which blocks are cached, their boundaries, and the dead blocks among those that no request uses.

    A block stands in a place for each prefix that it is cached for. Numbers of prefixes are the caller's; -1 is none.

    Attributes:
        dead: blocks that are dead and idle, the one first that has been for longest.
        counts: unused places; prefixes that left the tree since the caller looked.
        gone: those prefixes (of a caller that uses numbers again).

    Args:
        groups: what each group needs.
        alignment_units: every boundary is a multiple of it.
        prefixes: their numbers are below this.
        blocks: their numbers are below this.
        places: there are.
        recycle: the caller wants to know which prefixes are gone.
    """

    def __init__(
        self, groups: Sequence[Keeps], alignment_units: int, prefixes: int, blocks: int, places: int, recycle: bool
    ):
        self.groups = len(groups)
        self.units = np.array([keeps.block_units for keeps in groups], np.int32)
        self.last = np.array([keeps.last_blocks or 0 for keeps in groups], np.int32)  # 0: all
        self.chunk = np.array([keeps.chunk_units for keeps in groups], np.int32)
        self.alignment = alignment_units
        # A distance from which on only a group that needs everything cares; larger ones are cut to it.
        self.far = 1 + max((keeps.last_blocks or 1) * keeps.block_units for keeps in groups)
        self.parent = np.full(prefixes, -1, np.int32)
        self.depth = np.zeros(prefixes, np.int32)
        self.child = np.full(prefixes, -1, np.int32)
        self.last_child = np.full(prefixes, -1, np.int32)
        self.before = np.full(prefixes, -1, np.int32)
        self.after = np.full(prefixes, -1, np.int32)
        self.distance = np.full(prefixes, NONE, np.int32)
        self.is_boundary = np.zeros(prefixes, np.bool_)
        # By prefix and group: blocks in a row that end there, as far as it matters, and the first place.
        self.runs = np.zeros(prefixes * self.groups, np.int32)
        self.first = np.full(prefixes * self.groups, -1, np.int32)
        self.stack = np.zeros((prefixes, 2), np.int32)
        # Of a place: its prefix and group, its block, the next and the last one there, and the next of the block.
        self.key = np.zeros(places, np.int32)
        self.block = np.zeros(places, np.int32)
        self.newer = np.full(places, -1, np.int32)
        self.older = np.full(places, -1, np.int32)
        self.following = np.full(places, -1, np.int32)
        self.spare = np.arange(places, dtype=np.int32)
        self.place = np.full(blocks, -1, np.int32)
        self.idle = np.zeros(blocks, np.bool_)
        self.dead = LinkedList(blocks)
        self.gone = np.zeros(prefixes if recycle else 0, np.int32)
        self.counts = np.array([places, 0])

    def first_dead(self) -> int:
        """The block that has been dead and idle for longest, the end of a prefix first; -1: there is none."""
        block = self.dead.after[self.dead.end]
        return -1 if block == self.dead.end else block

    def attach(self, prefix: int, parent: int) -> None:
        """A prefix of one unit more than its parent, which is in the tree, is put into it, if it is not there."""
        if self.parent[prefix] >= 0:
            return
        last = self.last_child[parent]
        self.parent[prefix] = parent
        self.depth[prefix] = self.depth[parent] + 1
        self.before[prefix] = last
        self.after[prefix] = -1
        self.last_child[parent] = prefix
        if last >= 0:
            self.after[last] = prefix
        else:
            self.child[parent] = prefix

    def put(self, prefix: int, group: int, block: int) -> None:
        """A block in use is cached for a prefix that is in the tree."""
        key = prefix * self.groups + group
        self.counts[SPARE] -= 1
        place, first = self.spare[self.counts[SPARE]], self.first[key]
        self.key[place] = key
        self.block[place] = block
        self.newer[place] = first
        self.older[place] = -1
        if first >= 0:
            self.older[first] = place
        self.first[key] = place
        self.following[place] = self.place[block]
        self.place[block] = place
        if first < 0:
            self.update(prefix, group)

    def copy(self, block: int, other: int) -> None:
        """Another block is cached for all that a block is."""
        place = self.place[block]
        while place >= 0:
            self.put(self.key[place] // self.groups, self.key[place] % self.groups, other)
            place = self.following[place]

    def remove(self, block: int) -> None:
        """A block is cached no longer."""
        self.touch(block)
        while self.place[block] >= 0:
            place = self.place[block]
            key, newer, older = self.key[place], self.newer[place], self.older[place]
            self.place[block] = self.following[place]
            self.spare[self.counts[SPARE]] = place
            self.counts[SPARE] += 1
            if newer >= 0:
                self.older[newer] = older
            if older >= 0:
                self.newer[older] = newer
            else:
                self.first[key] = newer
            if self.first[key] < 0:
                self.update(key // self.groups, key % self.groups)
            self.prune(key // self.groups)

    def release(self, block: int) -> None:
        """No request uses a cached block any more; of a prefix the end comes first."""
        self.idle[block] = True
        self.sort(block)

    def touch(self, block: int) -> None:
        """A cached block is used again."""
        self.idle[block] = False
        if self.dead.holds(block):
            self.dead.remove(block)

    def is_empty(self, prefix: int) -> bool:
        """Whether nothing is cached for a prefix, nor for longer ones."""
        empty = self.child[prefix] < 0
        for group in range(self.groups):
            empty &= self.first[prefix * self.groups + group] < 0
        return empty

    def prune(self, prefix: int) -> None:
        """Forgets a prefix that is empty, and its parents that are from then on."""
        while prefix != ROOT and self.is_empty(prefix):
            parent, before, after = self.parent[prefix], self.before[prefix], self.after[prefix]
            if before >= 0:
                self.after[before] = after
            else:
                self.child[parent] = after
            if after >= 0:
                self.before[after] = before
            else:
                self.last_child[parent] = before
            self.parent[prefix] = -1
            self.runs[prefix * self.groups : (prefix + 1) * self.groups] = 0
            if self.gone.size:
                self.gone[self.counts[GONE]] = prefix
                self.counts[GONE] += 1
            prefix = parent

    def update(self, prefix: int, group: int) -> None:
        """A group has a first block of a prefix, or none any more."""
        self.stack[0, 0] = prefix
        self.stack[0, 1] = 0
        top = 1
        while top:
            top -= 1
            prefix, left = self.stack[top, 0], self.stack[top, 1]
            if not left:
                run = self.run(prefix, group)
                if run == self.runs[prefix * self.groups + group]:
                    continue
                self.runs[prefix * self.groups + group] = run
                self.judge(prefix)
                if self.last[group] <= 1:  # a row of one depends on no other
                    continue
                left = self.units[group]
            child = self.child[prefix]
            while child >= 0:
                self.stack[top, 0] = child
                self.stack[top, 1] = left - 1
                top += 1
                child = self.after[child]

    def run(self, prefix: int, group: int) -> int:
        """Blocks in a row that end at a prefix; all that a boundary can need where the row begins with the prompt.

        Of a group that keeps everything one counts: its blocks are evicted from the end, so the others are there.
        """
        if self.first[prefix * self.groups + group] < 0:
            return 0
        if self.last[group] <= 1 or self.depth[prefix] <= self.units[group]:
            return max(1, self.last[group])
        for _ in range(self.units[group]):
            prefix = self.parent[prefix]
        return min(self.last[group], self.runs[prefix * self.groups + group] + 1)

    def judge(self, prefix: int) -> None:
        """Finds out whether a prefix is a boundary."""
        depth = self.depth[prefix]
        is_boundary = depth % self.alignment == 0
        for group in range(self.groups):
            needed = max(1, self.last[group])
            if self.chunk[group]:
                needed = depth % self.chunk[group] // self.units[group]
            is_boundary &= self.runs[prefix * self.groups + group] >= needed
        if is_boundary != self.is_boundary[prefix]:
            self.is_boundary[prefix] = is_boundary
            self.measure(prefix)

    def measure(self, prefix: int) -> None:
        """Measures anew how far the nearest boundary is, from a prefix up to where nothing changes."""
        while prefix >= 0:
            distance, child = NONE, self.child[prefix]
            if self.is_boundary[prefix]:
                distance = 0
            while distance > 1 and child >= 0:
                if self.distance[child] != NONE:
                    distance = min(distance, self.distance[child] + 1, self.far)
                child = self.after[child]
            if distance == self.distance[prefix]:
                break
            self.distance[prefix] = distance
            for group in range(self.groups):
                place = self.first[prefix * self.groups + group]
                while place >= 0:
                    self.sort(self.block[place])
                    place = self.newer[place]
            prefix = self.parent[prefix]

    def sort(self, block: int) -> None:
        """Puts an idle block to the dead, or takes it from them."""
        if not self.idle[block]:
            return
        place, needed = self.place[block], False
        while place >= 0 and not needed:
            prefix = self.key[place] // self.groups
            needed = self.is_needed(self.key[place] % self.groups, self.depth[prefix], self.distance[prefix])
            place = self.following[place]
        if self.dead.holds(block):
            if needed:
                self.dead.remove(block)
        elif not needed:
            self.dead.append(block)

    def is_needed(self, group: int, depth: int, distance: int) -> bool:
        """Whether the nearest boundary, so many units after the end of a block at `depth`, needs the block."""
        units, last, chunk = self.units[group], self.last[group], self.chunk[group]
        if not last and depth % units:
            return distance == 0  # a part of a block, which another holds whole
        if not last or distance == NONE:
            return distance != NONE
        if chunk:
            return (depth + distance) // chunk * chunk <= depth - units
        return distance <= (last - 1) * units
