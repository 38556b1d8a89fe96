"""Least frequently used, with dynamic ageing: a block's key is its use count plus the key of the last block evicted
when it was used last, so that what was popular once goes when it is not used any more.

Source: Arlitt et al., "Evaluating content management techniques for Web proxy caches" (LFU-DA), 2000.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex


@compiled
class Lfu(Policy):
    """Counts requests, not chunks nor retries. Ties go to the least recently used.

    Args:
        context: see Policy.
        ageing: 0 for plain LFU, which keeps what was popular once; 1 for LFU-DA.
    """

    def __init__(self, context: PolicyContext, ageing: int = 1):
        super().__init__(context)
        if ageing not in (0, 1):
            raise ValueError(f"ageing is {ageing}; allowed: 0, 1")
        self.ageing = ageing
        self.age = 0
        self.count = np.zeros(context.nodes, np.int64)
        self.key = np.zeros(context.nodes, np.int64)

    def cached(self, node: int, parent: int) -> None:
        self.count[node] = 1

    def hit(self, node: int) -> None:
        self.count[node] += 1

    def released(self, node: int) -> None:
        self.key[node] = self.age + self.count[node]

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.key[node]

    def victim(self, index: PrefixIndex) -> int:
        block = index.leaves.first(0)
        if self.ageing:
            self.age = index.leaves.key[block]
        return block
