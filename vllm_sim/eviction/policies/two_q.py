"""A FIFO queue for what is new, an LRU queue for what came back soon after it had left the first one, and ghosts.

Source: Johnson, Shasha, "2Q: a low overhead high performance buffer management replacement algorithm", VLDB 1994, the
full version: a use in the FIFO queue moves nothing; its victims are remembered, and go to the LRU queue when they
return. Shares as there: a quarter of the blocks for the FIFO queue, half as many ghosts as blocks. Not as there: only
leaves are evicted; victims of the LRU queue take up ghosts as well, though they are new when they return.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

NEW, MAIN = 0, 1


@compiled
class TwoQ(Policy):
    """Evicts from the FIFO queue while it is above its share.

    Args:
        context: see Policy.
        new: the FIFO queue's share of the blocks.
        ghosts: evicted nodes that are remembered, as a share of the blocks.

    Raises:
        ValueError: a share is out of range.
    """

    queues = 2

    def __init__(self, context: PolicyContext, new: float = 0.25, ghosts: float = 0.5):
        super().__init__(context)
        if not 0 < new < 1:
            raise ValueError(f"new is {new}; allowed: a share between 0 and 1")
        if not 0 < ghosts <= 100:
            raise ValueError(f"ghosts is {ghosts}; allowed: above 0, up to 100")
        self.ghosts = max(1, int(ghosts * context.blocks))
        self.limit = int(new * context.blocks)
        self.clock = 0
        self.new_nodes = 0
        self.home = np.zeros(context.nodes, np.int64)
        self.arrival = np.zeros(context.nodes, np.int64)
        self.is_counted = np.zeros(context.nodes, np.bool_)
        self.is_remembered = np.zeros(context.nodes, np.bool_)

    def cached(self, node: int, parent: int) -> None:
        self.home[node] = MAIN if self.is_remembered[node] else NEW
        self.is_remembered[node] = False
        self.clock += 1
        self.arrival[node] = self.clock

    def released(self, node: int) -> None:
        # Counted now and not when it is cached: a request's own chunks must not change what it evicts.
        if self.home[node] == NEW and not self.is_counted[node]:
            self.is_counted[node] = True
            self.new_nodes += 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return (NEW, self.arrival[node]) if self.home[node] == NEW else (MAIN, stamp)

    def victim(self, index: PrefixIndex) -> int:
        new, main = index.leaves.first(NEW), index.leaves.first(MAIN)
        if new >= 0 and (main < 0 or self.new_nodes > self.limit):
            return new
        return main

    def evicted(self, node: int) -> None:
        if self.is_counted[node]:
            self.is_counted[node] = False
            self.new_nodes -= 1
        self.is_remembered[node] = self.home[node] == NEW

    def forgotten(self, node: int) -> None:
        self.is_remembered[node] = False
