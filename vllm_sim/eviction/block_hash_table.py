"""Numbers for nodes that come with a name, their block's hash: a compiled table, faster than a dictionary and smaller.

Open addressing with linear probes; whole names are compared, so two of them never share a number. The numbers of nodes
that the index has forgotten are used again.
"""

from typing import Any

import numba
import numpy as np

from vllm_sim.eviction.compiled import compiled, native, view
from vllm_sim.eviction.prefix_index import FORGOTTEN, PrefixIndex

WORDS = 4
"""A name has at most so many words of 8 bytes: vLLM's hashes have 2 or 4."""

_ODD = np.int64(0x9E3779B97F4A7C15 - 2**64)


@compiled
class _Table:
    """Which node has which name.

    Attributes:
        slots: a node or -1, at least half of them -1; a node is at its name's place or after it, with no -1 between.
        words: the name of a node; [nodes, WORDS].
        unused: numbers of no node, the next one last; [nodes].
        free: how many there are; [1].
    """

    def __init__(self, index: PrefixIndex):
        nodes = index.forgotten.size
        bits = nodes.bit_length() + 1
        self.slots = np.full(2**bits, -1, np.int32)
        self.mask = 2**bits - 1
        self.shift = 64 - bits
        self.words = np.zeros((nodes, WORDS), np.int64)
        self.unused = np.arange(nodes - 1, -1, -1, np.int32)
        self.free = np.array([nodes])
        self.forgotten = index.forgotten
        self.counts = index.counts

    def place(self, words: Any) -> int:
        """Where the search for a name begins: the upper bits of a product, as those depend on all of its bits."""
        mixed = words[0]
        for i in range(1, words.size):
            mixed = (mixed ^ (mixed >> 29)) * _ODD ^ words[i]
        return ((mixed ^ (mixed >> 29)) * _ODD >> self.shift) & self.mask

    def find(self, words: Any) -> int:
        """The number of a node; a new one where the name has none."""
        slot = self.place(words)
        while self.slots[slot] >= 0:
            node = self.slots[slot]
            if self.has(node, words):
                return node
            slot = (slot + 1) & self.mask
        self.free[0] -= 1
        node = self.unused[self.free[0]]
        for i in range(words.size):
            self.words[node, i] = words[i]
        self.slots[slot] = node
        return node

    def has(self, node: int, words: Any) -> bool:
        same = True
        for i in range(words.size):
            same &= self.words[node, i] == words[i]
        return same

    def collect(self, size: int) -> None:
        """Takes back the numbers of forgotten nodes; size: words of a name."""
        for i in range(self.counts[FORGOTTEN]):
            node = self.forgotten[i]
            self.remove(node, size)
            self.unused[self.free[0]] = node
            self.free[0] += 1
        self.counts[FORGOTTEN] = 0

    def remove(self, node: int, size: int) -> None:
        gap = self.place(self.words[node, :size])
        while self.slots[gap] != node:
            gap = (gap + 1) & self.mask
        # What comes after the gap moves into it, unless its own place is after the gap.
        slot = gap
        while True:
            slot = (slot + 1) & self.mask
            moved = self.slots[slot]
            if moved < 0:
                break
            place = self.place(self.words[moved, :size])
            if (slot - place) & self.mask >= (slot - gap) & self.mask:
                self.slots[gap] = moved
                gap = slot
        self.slots[gap] = -1


class BlockHashTable:
    """The numbers of a index's nodes; the index must recycle them."""

    def __init__(self, index: PrefixIndex):
        self._table = native(_Table(index))
        self._size = 0

    def numbers(self, names: list[bytes]) -> np.ndarray:
        """The numbers of nodes, the new ones among them as they come; [names].

        Args:
            names: one or more, all that are ever given of one length, 8 to 32 bytes in steps of 8.

        Raises:
            ValueError: a name has another length.
        """
        text = b"".join(names)
        self._size = self._size or len(names[0])
        if len(text) != self._size * len(names) or self._size not in range(8, 8 * WORDS + 1, 8):
            raise ValueError(
                f"block hashes of {len(names[0])} bytes; allowed: 8, 16, 24 or 32 bytes, and all of them alike"
            )
        nodes = np.empty(len(names), np.int64)
        _number(self._table, np.frombuffer(text, np.int64), nodes)
        return nodes


@numba.njit(cache=True)
def _number(table: Any, words: Any, nodes: Any) -> None:
    table, size = view(table), words.size // nodes.size
    table.collect(size)
    for i in range(nodes.size):
        nodes[i] = table.find(words[i * size : (i + 1) * size])
