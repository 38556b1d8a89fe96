"""Numbers for nodes that come with a name, their block's hash: a compiled table, faster than a dictionary and smaller.

Open addressing with linear probes. A name of more than 16 bytes is kept as the exclusive or of its halves: of n names
two share a number with a chance of about n**2 / 2**129, where vLLM's own hashes of 32 bytes are as good as random. The
numbers of nodes that the index has forgotten are used again.
"""

from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.compiled import compiled, view
from vllm_sim.eviction.prefix_index import FORGOTTEN, PrefixIndex

MOST_BYTES = 32
"""A name has at most so many: vLLM's hashes have 16 or 32."""
WORDS = 2
"""Of 8 bytes, that are kept of a name."""

_ODD = np.int64(0x9E3779B97F4A7C15 - 2**64)


@compiled
class BlockHashTable:
    """Which node has which name.

    Attributes:
        slots: a node or -1, at least a third of them -1; a node is at its name's place or after it, with no -1 between.
        words: the name of a node; [nodes, WORDS].
        unused: numbers of no node, the next one last; [nodes].
        free: how many there are; [1].

    Args:
        index: it must recycle the numbers of its nodes.
    """

    def __init__(self, index: PrefixIndex):
        nodes = index.forgotten.size
        bits = max(1, (3 * nodes // 2).bit_length())
        self.slots = np.full(2**bits, -1, np.int32)
        self.mask = 2**bits - 1
        self.shift = 64 - bits
        self.words = np.zeros((nodes, WORDS), np.int64)
        self.unused = np.arange(nodes - 1, -1, -1, np.int32)
        self.free = np.array([nodes])
        self.forgotten = index.forgotten
        self.counts = index.counts

    def place(self, low: int, high: int) -> int:
        """Where the search for a name begins: the upper bits of a product, as those depend on all of its bits."""
        mixed = (low ^ (low >> 29)) * _ODD ^ high
        return ((mixed ^ (mixed >> 29)) * _ODD >> self.shift) & self.mask

    def find(self, low: int, high: int) -> int:
        """The number of a node; a new one where the name has none.

        Raises:
            ValueError: all numbers are given out.
        """
        slot = self.place(low, high)
        while self.slots[slot] >= 0:
            node = self.slots[slot]
            if self.words[node, 0] == low and self.words[node, 1] == high:
                return node
            slot = (slot + 1) & self.mask
        if self.free[0] == 0:
            raise ValueError("there are more nodes than numbers")
        self.free[0] -= 1
        node = self.unused[self.free[0]]
        self.words[node, 0] = low
        self.words[node, 1] = high
        self.slots[slot] = node
        return node

    def collect(self) -> None:
        """Takes back the numbers of forgotten nodes."""
        for i in range(self.counts[FORGOTTEN]):
            node = self.forgotten[i]
            self.remove(node)
            self.unused[self.free[0]] = node
            self.free[0] += 1
        self.counts[FORGOTTEN] = 0

    def remove(self, node: int) -> None:
        gap = self.place(self.words[node, 0], self.words[node, 1])
        while self.slots[gap] != node:
            gap = (gap + 1) & self.mask
        # What comes after the gap moves into it, unless its own place is after the gap.
        slot = gap
        while True:
            slot = (slot + 1) & self.mask
            moved = self.slots[slot]
            if moved < 0:
                break
            place = self.place(self.words[moved, 0], self.words[moved, 1])
            if (slot - place) & self.mask >= (slot - gap) & self.mask:
                self.slots[gap] = moved
                gap = slot
        self.slots[gap] = -1


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
    for i in range(nodes.size):
        low, high = names[i * size], np.int64(0)
        for j in range(1, size):
            if j % 2:
                high ^= names[i * size + j]
            else:
                low ^= names[i * size + j]
        nodes[i] = table.find(low, high)
