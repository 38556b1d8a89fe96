"""A list of numbers in the order of their arrival, with removal from its middle."""

import numpy as np

from vllm_sim.eviction.compiled import compiled


@compiled
class LinkedList:
    """A doubly linked list over 0 .. size-1, each of them in it once or not at all."""

    def __init__(self, size: int):
        # The last place of both arrays is the list's end: the number after it is the oldest.
        self.after = np.full(size + 1, -1, np.int32)
        self.before = np.full(size + 1, -1, np.int32)
        self.after[size] = size
        self.before[size] = size
        self.end = size
        self.size = 0

    def holds(self, number: int) -> bool:
        return self.after[number] >= 0

    def first(self) -> int:
        """The oldest; the list must not be empty."""
        return self.after[self.end]

    def append(self, number: int) -> None:
        last = self.before[self.end]
        self.after[last] = number
        self.before[number] = last
        self.after[number] = self.end
        self.before[self.end] = number
        self.size += 1

    def remove(self, number: int) -> None:
        before, after = self.before[number], self.after[number]
        self.after[before] = after
        self.before[after] = before
        self.after[number] = -1
        self.size -= 1
