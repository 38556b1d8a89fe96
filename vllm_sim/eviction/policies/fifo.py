"""First in, first out: the block that has been cached longest, whether it is used or not."""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext


@compiled
class Fifo(Policy):
    """A parent is older than its child, so the order alone would strand the child: only leaves are offered."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.arrival = np.zeros(context.nodes, np.int64)
        self.clock = 0

    def cached(self, node: int, parent: int) -> None:
        self.clock += 1
        self.arrival[node] = self.clock

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.arrival[node]
