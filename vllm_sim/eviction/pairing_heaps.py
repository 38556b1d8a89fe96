"""The blocks that may be evicted now, in queues, each ordered by a key: pairing heaps that share their arrays.

A pairing heap suits chains: after a chain's tail is evicted its parent enters with almost the same key and becomes the
root at once, so that a chain is taken down at a constant cost a block. Equal keys are ordered by `tie`, which must
differ between blocks. Two heaps over the same blocks, one of which has the highest key first, keep the keys once.

Source: Fredman, Sedgewick, Sleator, Tarjan, "The pairing heap: a new form of self-adjusting heap", Algorithmica 1986.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled


@compiled
class PairingHeaps:
    """Heaps over block numbers.

    Attributes:
        queue: the queue a block is in, -1 for none; [blocks].

    Args:
        blocks: their numbers are below this.
        queues: there are.
        tie: a number of each block that somebody else keeps, and that stays while the block is here; [blocks].
        key: that of other heaps, in which each block is pushed first; None: an own one.
        sign: -1: the block with the highest key comes first, of equal ones that with the highest tie.
    """

    def __init__(self, blocks: int, queues: int, tie: np.ndarray, key: np.ndarray | None = None, sign: int = 1):
        self.queue = np.full(blocks, -1, np.int32)
        self.key = np.zeros(blocks, np.int64) if key is None else key
        self.tie = tie
        self.sign = sign
        self.root = np.full(queues, -1, np.int32)
        self.child = np.full(blocks, -1, np.int32)
        self.sibling = np.full(blocks, -1, np.int32)
        # The sibling before a block, for a first child its parent.
        self.before = np.full(blocks, -1, np.int32)

    def first(self, queue: int) -> int:
        """The block that comes first, -1 if the queue is empty."""
        return self.root[queue]

    def push(self, block: int, queue: int, key: int) -> None:
        self.queue[block] = queue
        self.key[block] = key
        root = self.root[queue]
        self.root[queue] = block if root < 0 else self.meld(root, block)

    def remove(self, block: int) -> None:
        queue = self.queue[block]
        self.queue[block] = -1
        children = self.merge(self.child[block])
        self.child[block] = -1
        if self.root[queue] == block:
            self.root[queue] = children
            return
        before, after = self.before[block], self.sibling[block]
        if self.child[before] == block:
            self.child[before] = after
        else:
            self.sibling[before] = after
        if after >= 0:
            self.before[after] = before
        self.before[block] = -1
        self.sibling[block] = -1
        if children >= 0:
            self.root[queue] = self.meld(self.root[queue], children)

    def meld(self, a: int, b: int) -> int:
        """One heap out of two; returns its root."""
        low, high = (b, a) if self.sign > 0 else (a, b)
        if self.key[low] < self.key[high] or (self.key[low] == self.key[high] and self.tie[low] < self.tie[high]):
            a, b = b, a
        after = self.child[a]
        self.sibling[b] = after
        if after >= 0:
            self.before[after] = b
        self.before[b] = a
        self.child[a] = b
        return a

    def merge(self, block: int) -> int:
        """One heap out of a list of siblings, in two passes; returns its root, -1 if the list is empty."""
        if block < 0 or self.sibling[block] < 0:
            if block >= 0:
                self.before[block] = -1
            return block
        pairs = -1
        while block >= 0:
            other = self.sibling[block]
            rest = -1
            self.sibling[block] = -1
            if other >= 0:
                rest = self.sibling[other]
                self.sibling[other] = -1
                block = self.meld(block, other)
            self.sibling[block] = pairs
            pairs = block
            block = rest
        root = pairs
        pairs = self.sibling[root]
        self.sibling[root] = -1
        while pairs >= 0:
            rest = self.sibling[pairs]
            self.sibling[pairs] = -1
            root = self.meld(root, pairs)
            pairs = rest
        self.before[root] = -1
        return root


@compiled
class NoHeaps:
    """Stands for heaps that a policy does not use: compiling those took half of the time for LRU."""

    def __init__(self, queues: int):
        self.queue = np.full(0, -1, np.int32)
        self.key = np.zeros(0, np.int64)
        self.root = np.full(queues, -1, np.int32)

    def first(self, queue: int) -> int:
        """No block."""
        return -1

    def push(self, block: int, queue: int, key: int) -> None:
        """Not called."""

    def remove(self, block: int) -> None:
        """Not called."""
