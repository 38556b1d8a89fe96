"""Numbers for nodes that come with a name, their block's hash: a compiled table, faster than a dictionary and smaller.

Lists of the nodes whose names begin at the same place. Of a name the exclusive or of its words of 8 bytes is kept: of n
names two share a number with a chance of about n**2 / 2**65, where vLLM's own hashes are as good as random. Such a pair
would be ranked as one node; what is hit is upstream's matter. The numbers of nodes that the index has forgotten are
used again.
"""

from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.compiled import compiled, view
from vllm_sim.eviction.prefix_index import FORGOTTEN, PrefixIndex

MOST_BYTES = 32
"""A name has at most so many: vLLM's hashes have 16 or 32."""

_ODD = np.int64(0x9E3779B97F4A7C15 - 2**64)
_LOW = np.int64(2**32 - 1)


@compiled
class BlockHashTable:
    """Which node has which name.

    Attributes:
        heads: the node that a list begins with, -1 for none; [nodes].
        after: the node after a node in its list, -1 for none; of a number of no node, another such number; [nodes].
        words: what is kept of the name of a node; [nodes].
        free: the number that is given out next, -1 for none; how many there are.

    Args:
        index: of one that does not use numbers again it is an empty table.
    """

    def __init__(self, index: PrefixIndex):
        nodes = index.first.size if index.recycle else 0
        self.nodes = nodes
        self.heads = np.full(nodes, -1, np.int32)
        self.after = np.arange(1, nodes + 1, dtype=np.int32)
        self.after[-1:] = -1
        self.words = np.zeros(nodes, np.int64)
        self.free = np.array([0, nodes])
        self.first = index.first
        self.counts = index.counts

    def place(self, word: int) -> int:
        """Which list a name is in: the upper bits of a product, as those depend on all of its bits."""
        mixed = (word ^ (word >> 29)) * _ODD
        return int((((mixed ^ (mixed >> 29)) * _ODD >> 32) & _LOW) * self.nodes >> 32)

    def find(self, word: int) -> int:
        """The number of a node; a new one where the name has none.

        Raises:
            ValueError: all numbers are given out.
        """
        place = self.place(word)
        node = self.heads[place]
        while node >= 0:
            if self.words[node] == word:
                return node
            node = self.after[node]
        node = self.free[0]
        if node < 0:
            raise ValueError("there are more nodes than numbers")
        self.free[0] = self.after[node]
        self.free[1] -= 1
        self.words[node] = word
        self.after[node] = self.heads[place]
        self.heads[place] = node
        return node

    def collect(self) -> None:
        """Takes back the numbers of forgotten nodes."""
        node = self.counts[FORGOTTEN]
        while node >= 0:
            following = -2 - self.first[node]
            self.first[node] = -1
            self.remove(node)
            self.after[node] = self.free[0]
            self.free[0] = node
            self.free[1] += 1
            node = following
        self.counts[FORGOTTEN] = -1

    def remove(self, node: int) -> None:
        place = self.place(self.words[node])
        before = self.heads[place]
        if before == node:
            self.heads[place] = self.after[node]
            return
        while self.after[before] != node:
            before = self.after[before]
        self.after[before] = self.after[node]


@numba.njit(cache=True)
def unused(table: Any) -> int:
    """How many numbers a compiled table can give out."""
    table = view(table)
    table.collect()
    return table.free[1]


@numba.njit(cache=True)
def number(table: Any, names: Any, nodes: Any) -> None:
    """Writes the numbers of nodes into `nodes`, the new ones among them as they come.

    Args:
        table: compiled.
        names: one after the other, all that are ever given of one length; [words of all].
        nodes: [names].
    """
    table, size = view(table), names.size // nodes.size
    table.collect()
    words = np.empty(nodes.size, np.int64)
    for i in range(nodes.size):
        words[i] = names[i * size]
        for j in range(1, size):
            words[i] ^= names[i * size + j]
        # Read for the processor's cache alone: these reads do not wait for each other, those of `find` do.
        nodes[i] = table.heads[table.place(words[i])]
    for i in range(nodes.size):
        nodes[i] = table.find(words[i])
