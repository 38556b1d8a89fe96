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
        blank: blocks without a hash that the last request has left.
    """

    def __init__(self, blocks: int, nodes: int):
        self.oldest = np.full(nodes, -1, np.int64)
        # The copy of the same node that was cached next.
        self.newer = np.full(blocks, -1, np.int64)
        self.stamp = np.zeros(blocks, np.int64)
        # How many blocks that are not pinned have a stamp up to some value: a Fenwick tree.
        self.tree = np.zeros(blocks + 1, np.int64)
        self.counted = 0
        self.clock = 0
        self.made = 0
        self.blank = 0
        # Pinned blocks by level; a level of 0 stands for a block that is not pinned.
        self.pin = np.zeros(blocks, np.int64)
        self.pinned = np.zeros(blocks, np.int64)
        self.pins = 0
        # Levels of copies when the present request began.
        self.found = np.zeros(blocks, np.int64)
        self.copies = np.zeros(blocks, np.int64)

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
        if self.pin[block]:
            return self.pin[block]
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
                self.pin[block] = 0
                self.count(block, 1)
            else:
                self.pinned[kept] = block
                kept += 1
        self.pins = kept

    def find(self, node: int) -> int:
        """The least capacity of a cache that has the node; there must be a copy."""
        block = self.oldest[node]
        least = self.level(block)
        if self.newer[block] >= 0:
            self.found[block] = least
            block = self.newer[block]
            while block >= 0:
                self.found[block] = self.level(block)
                least = min(least, self.found[block])
                block = self.newer[block]
        return least

    def take(self, node: int) -> int:
        """A request uses a node that `find` was called with; returns the block, which is not counted until released."""
        first = self.oldest[node]
        if self.newer[first] < 0:
            self.count(first, -1)
            return first
        size = 0
        block = first
        while block >= 0:
            place = size
            while place and self.found[self.copies[place - 1]] > self.found[block]:
                self.copies[place] = self.copies[place - 1]
                place -= 1
            self.copies[place] = block
            size += 1
            block = self.newer[block]
        # From the smallest cache on: of the copies that a cache has, the one cached first goes to the top.
        top = self.copies[0]
        self.lift(top)
        for i in range(1, size):
            block = self.copies[i]
            if self.is_older(block, top):
                self.lift(block)
                self.put(top, self.found[block])
                top = block
        return top

    def is_older(self, block: int, other: int) -> bool:
        """Whether a copy was cached before another one."""
        while block >= 0 and block != other:
            block = self.newer[block]
        return block == other

    def lift(self, block: int) -> None:
        """Takes a block out of its place."""
        if self.pin[block] == 0:
            self.count(block, -1)
            return
        self.pin[block] = 0
        place = 0
        while self.pinned[place] != block:
            place += 1
        self.pins -= 1
        for i in range(place, self.pins):
            self.pinned[i] = self.pinned[i + 1]

    def put(self, block: int, level: int) -> None:
        """Pins a block that has no place."""
        self.pin[block] = level
        place = self.pins
        while place and self.pin[self.pinned[place - 1]] > level:
            self.pinned[place] = self.pinned[place - 1]
            place -= 1
        self.pinned[place] = block
        self.pins += 1

    def make(self, node: int) -> int:
        """A block is computed for a node, next to its copies."""
        made = self.made
        self.made += 1
        last = self.oldest[node]
        if last < 0:
            self.oldest[node] = made
            return made
        while self.newer[last] >= 0:
            last = self.newer[last]
        self.newer[last] = made
        return made

    def release(self, block: int) -> None:
        self.clock += 1
        self.stamp[block] = self.clock
        self.count(block, 1)
