"""One FIFO queue and a hand that goes from its oldest block to its newest one, and starts again: a block that was used
since the hand passed it is let off once, and keeps its place.

Source: Zhang et al., "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm for web caches", NSDI 2024.
Not as there: only leaves are evicted, and the hand sees leaves alone.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex


@compiled
class Sieve(Policy):
    """Two queues, of what the hand has yet to pass and of what it has passed, which change places as it starts anew."""

    queues = 2

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.clock = 0
        self.hand = 0
        self.ahead = 0
        self.arrival = np.zeros(context.nodes, np.int64)
        self.visited = np.zeros(context.nodes, np.bool_)

    def cached(self, node: int, parent: int) -> None:
        self.clock += 1
        self.arrival[node] = self.clock
        self.visited[node] = False

    def hit(self, node: int) -> None:
        self.visited[node] = True

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        is_ahead = self.arrival[node] >= self.hand
        return (self.ahead if is_ahead else 1 - self.ahead), self.arrival[node]

    def victim(self, index: PrefixIndex) -> int:
        while True:
            block = index.leaves.first(self.ahead)
            if block < 0:
                self.ahead, self.hand = 1 - self.ahead, 0
                block = index.leaves.first(self.ahead)
            node = index.node[block]
            self.hand = self.arrival[node] + 1
            if not self.visited[node]:
                return block
            self.visited[node] = False
            index.rerank(self, node)
