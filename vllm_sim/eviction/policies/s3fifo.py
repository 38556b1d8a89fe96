"""Three static FIFO queues: a small one for what is new, a main one for what was used again, and ghosts.

Source: Yang et al., "FIFO queues are all you need for cache eviction" (S3-FIFO), SOSP 2023: a block leaves the small
queue for the main one if it was used more than once there, else for the ghosts; a ghost that returns enters the main
queue; a block of the main queue that was used goes round again with one use less (3 are counted). Not as there: only
leaves are evicted or moved.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

SMALL, MAIN = 0, 1
_MOST_USES = 3


@compiled
class S3Fifo(Policy):
    """Evicts from the small queue while it is above its share.

    Args:
        context: see Policy.
        small: the small queue's share of the blocks.
        threshold: a block that was used more often in the small queue leaves it for the main one.

    Raises:
        ValueError: a value is out of range.
    """

    queues = 2

    def __init__(self, context: PolicyContext, small: float = 0.1, threshold: int = 1):
        super().__init__(context)
        if not 0 < small < 1:
            raise ValueError(f"small is {small}; allowed: a share between 0 and 1")
        if threshold not in (0, 1, 2):
            raise ValueError(f"threshold is {threshold}; allowed: 0, 1, 2")
        self.threshold = int(threshold)
        self.ghosts = max(1, int((1 - small) * context.blocks))
        self.limit = int(small * context.blocks)
        self.clock = 0
        self.small_nodes = 0
        self.in_queue = np.zeros(context.nodes, np.int8)
        self.arrival = np.zeros(context.nodes, np.int64)
        self.uses = np.zeros(context.nodes, np.int8)
        self.is_ghost = np.zeros(context.nodes, np.bool_)

    def arrive(self, node: int, queue: int) -> None:
        self.in_queue[node] = queue
        self.clock += 1
        self.arrival[node] = self.clock
        if queue == SMALL:
            self.small_nodes += 1

    def cached(self, node: int, parent: int) -> None:
        self.arrive(node, MAIN if self.is_ghost[node] else SMALL)
        self.is_ghost[node] = False
        self.uses[node] = 0

    def hit(self, node: int) -> None:
        self.uses[node] = min(self.uses[node] + 1, _MOST_USES)

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.in_queue[node], self.arrival[node]

    def victim(self, index: PrefixIndex) -> int:
        while True:
            small, main = index.leaves.first(SMALL), index.leaves.first(MAIN)
            if small >= 0 and (main < 0 or self.small_nodes > self.limit):
                node = index.node[small]
                if self.uses[node] <= self.threshold:
                    return small
                self.small_nodes -= 1
                self.uses[node] = 0
            else:
                node = index.node[main]
                if self.uses[node] == 0:
                    return main
                self.uses[node] -= 1
            self.arrive(node, MAIN)
            index.rerank(self, node)

    def evicted(self, node: int) -> None:
        if self.in_queue[node] == SMALL:
            self.small_nodes -= 1
        self.is_ghost[node] = True

    def forgotten(self, node: int) -> None:
        self.is_ghost[node] = False
