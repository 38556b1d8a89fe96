"""All blocks in the order of their release, as caches of every capacity under LRU see them at once.

miss_ratio_curve.py has the rules and their source.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled


@compiled
class Stack:
    """Blocks are numbered as they are computed; a level is the least capacity of a cache that has the block.

    Attributes:
        oldest: the copy of a node that was cached first, -1 for none; [nodes].
        newest: the one that was cached last, of those that a request may find; [nodes].
        blank: blocks without a hash that the last request has left.
    """

    def __init__(self, blocks: int, nodes: int):
        self.oldest = np.full(nodes, -1, np.int64)
        self.newest = np.full(nodes, -1, np.int64)
        # The copy of the same node that was cached next, and its level when the present request began.
        self.newer = np.full(blocks, -1, np.int64)
        self.found = np.zeros(blocks, np.int64)
        self.stamp = np.zeros(blocks, np.int64)
        # How many blocks that are not pinned have a stamp up to some value: a Fenwick tree.
        self.tree = np.zeros(blocks + 1, np.int64)
        self.counted = 0
        self.clock = 0
        self.made = 0
        self.blank = 0
        # Blocks by the level that they are pinned to, the least first.
        self.pinned = np.zeros(blocks, np.int64)
        self.pin = np.zeros(blocks, np.int64)
        self.pins = 0

    def count(self, block: int, change: int) -> None:
        self.counted += change
        place = self.stamp[block]
        while place < self.tree.size:
            self.tree[place] += change
            place += place & -place

    def later(self, block: int) -> int:
        """Blocks that are not pinned and were released later."""
        found, place = self.counted, self.stamp[block]
        while place > 0:
            found -= self.tree[place]
            place -= place & -place
        return found

    def level(self, block: int) -> int:
        """Of a block that is not pinned."""
        rank = self.later(block) + 1 + self.blank
        low, high = 0, self.pins
        while low < high:
            middle = (low + high) // 2
            if self.pin[self.pinned[middle]] - middle <= rank:
                low = middle + 1
            else:
                high = middle
        return rank + low

    def begin(self) -> None:
        """A request begins: pinned blocks that were evicted at their level are blocks as others."""
        kept = 0
        for i in range(self.pins):
            block = self.pinned[i]
            if self.later(block) + kept + 1 > self.pin[block] - self.blank:
                self.count(block, 1)
            else:
                self.pinned[kept] = block
                kept += 1
        self.pins = kept

    def find(self, node: int) -> int:
        """The least capacity of a cache that has the node; there must be a copy."""
        block = self.oldest[node]
        while self.newer[block] >= 0:
            self.found[block] = self.level(block)
            block = self.newer[block]
        return self.level(block)

    def take(self, node: int) -> int:
        """A request uses a node that `find` was called with; returns the block, which is not counted until released.

        The copy that was cached first is used by the caches that have it. Each copy after it stays where it is in
        those that have the one before it, and goes to the top in smaller ones: it is pinned to the level of the one
        before it. No request finds it again, since the first copy is above it from now on.
        """
        first = self.oldest[node]
        self.count(first, -1)
        block, more = self.newer[first], 0
        while block >= 0:
            self.count(block, -1)
            more += 1
            block = self.newer[block]
        # The levels that they are pinned to fall from copy to copy, so they are merged from the largest on.
        old, place, before = self.pins - 1, self.pins + more - 1, first
        self.pins += more
        block = self.newer[first]
        while block >= 0:
            level = self.found[before]
            while old >= 0 and self.pin[self.pinned[old]] > level:
                self.pinned[place] = self.pinned[old]
                place -= 1
                old -= 1
            self.pin[block] = level
            self.pinned[place] = block
            place -= 1
            before, block = block, self.newer[block]
        self.newer[first] = -1
        self.newest[node] = first
        return first

    def make(self, node: int) -> int:
        """A block is computed for a node, next to its copies."""
        made = self.made
        self.made += 1
        if self.oldest[node] < 0:
            self.oldest[node] = made
        else:
            self.newer[self.newest[node]] = made
        self.newest[node] = made
        return made

    def release(self, block: int) -> None:
        self.clock += 1
        self.stamp[block] = self.clock
        self.count(block, 1)
