"""Segmented LRU: what was used twice is protected, up to a share of the cache; beyond it the least recently used of the
protected nodes goes back to probation, as its newest.

Source: Karedla, Love, Wherry, "Caching strategies to improve disk system performance", IEEE Computer 1994.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.linked_list import LinkedList
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

PROBATION, PROTECTED = 0, 1


@compiled
class Slru(Policy):
    """Evicts from probation while it can.

    Args:
        context: see Policy.
        protected: the share of the blocks that can be protected.
    """

    queues = 2

    def __init__(self, context: PolicyContext, protected: float = 0.5):
        super().__init__(context)
        if not 0 < protected < 1:
            raise ValueError(f"protected is {protected}; allowed: a share between 0 and 1")
        self.limit = int(protected * context.blocks)
        self.clock = 0
        self.segment = np.zeros(context.nodes, np.int64)
        self.key = np.zeros(context.nodes, np.int64)
        # Protected nodes that are released, least recently used first; not only the leaves.
        self.protected = LinkedList(context.nodes)

    def cached(self, node: int, parent: int) -> None:
        self.segment[node] = PROBATION

    def hit(self, node: int) -> None:
        self.leave(node)
        self.segment[node] = PROTECTED

    def released(self, node: int) -> None:
        self.clock += 1
        self.key[node] = self.clock
        if self.segment[node] == PROTECTED:
            self.leave(node)
            self.protected.append(node)

    def evicted(self, node: int) -> None:
        self.leave(node)

    def leave(self, node: int) -> None:
        if self.protected.holds(node):
            self.protected.remove(node)

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.segment[node], self.key[node]

    def victim(self, index: PrefixIndex) -> int:
        while self.protected.size > self.limit:
            node = self.protected.first()
            self.protected.remove(node)
            self.segment[node] = PROBATION
            self.clock += 1
            self.key[node] = self.clock
            index.rerank(self, node)
        block = index.leaves.first(PROBATION)
        return block if block >= 0 else index.leaves.first(PROTECTED)
