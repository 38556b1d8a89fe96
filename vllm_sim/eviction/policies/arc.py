"""Adaptive replacement for chains: nodes used once and nodes used again are two LRU queues, and the share of the first
adapts to which of them evicts too early, as hits among the ghosts.

Source: Megiddo, Modha, "ARC: a self-tuning, low overhead replacement cache", FAST 2003. Not as there: the target moves
once per request and not once per block; only leaves are evicted; both kinds of ghosts share one list of as many nodes
as there are blocks, the oldest forgotten first.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

ONCE, AGAIN = 0, 1


@compiled
class Arc(Policy):
    """Evicts from the queue of nodes used once while they are more than the target."""

    queues = 2

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.ghosts = context.blocks
        self.blocks = context.blocks
        self.kind = np.full(context.nodes, -1, np.int64)
        self.is_ghost = np.zeros(context.nodes, np.bool_)
        # Nodes of a kind: cached, ghosts, and ghosts that the present request brings back.
        self.cached_nodes = np.zeros(2, np.int64)
        self.ghost_nodes = np.zeros(2, np.int64)
        self.returned = np.zeros(2, np.int64)
        self.target = 0.0

    def started(self, request: int, hittable: int) -> None:
        once, again = max(1, self.ghost_nodes[ONCE]), max(1, self.ghost_nodes[AGAIN])
        if self.returned[ONCE]:
            self.target = min(self.target + self.returned[ONCE] * max(1.0, again / once), float(self.blocks))
        if self.returned[AGAIN]:
            self.target = max(self.target - self.returned[AGAIN] * max(1.0, once / again), 0.0)
        self.returned[:] = 0

    def cached(self, node: int, parent: int) -> None:
        if self.is_ghost[node]:
            self.is_ghost[node] = False
            self.ghost_nodes[self.kind[node]] -= 1
            self.returned[self.kind[node]] += 1
            self.kind[node] = AGAIN
        else:
            self.kind[node] = ONCE
        self.cached_nodes[self.kind[node]] += 1

    def hit(self, node: int) -> None:
        self.cached_nodes[self.kind[node]] -= 1
        self.kind[node] = AGAIN
        self.cached_nodes[AGAIN] += 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.kind[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        once, again = index.leaves.first(ONCE), index.leaves.first(AGAIN)
        if once >= 0 and (again < 0 or self.cached_nodes[ONCE] > self.target):
            return once
        return again

    def evicted(self, node: int) -> None:
        self.cached_nodes[self.kind[node]] -= 1
        self.ghost_nodes[self.kind[node]] += 1
        self.is_ghost[node] = True

    def forgotten(self, node: int) -> None:
        if self.is_ghost[node]:
            self.ghost_nodes[self.kind[node]] -= 1
            self.is_ghost[node] = False
