"""Workload-aware eviction: requests of one category (workload and turn) share a queue, and the queue goes first whose
oldest block is least likely to be used again.

Source: Wang et al., "KVCache cache in the wild", USENIX ATC 2025 (arXiv 2506.02634): the chance of a reuse is fitted
per category with an exponential distribution of the time to it; within a category the later block of a chain goes
first. Here a block that was left alone for a time t has the chance p exp(-t/m) left: p of the category's releases were
followed by a use, after m on average. Time counts computed blocks; both are estimated from what was seen so far, with
one success in two trials and a mean of the cache's size to begin with.
"""

import math

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex


@compiled
class WorkloadAware(Policy):
    """With one category it is LRU."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.queues = context.categories
        self.ghosts = context.blocks
        self.present = 0
        self.now = 0
        self.category = np.full(context.nodes, 0, np.int32)
        self.left = np.full(context.nodes, -1, np.int64)
        self.released_nodes = np.full(context.categories, 2.0)
        self.reused_nodes = np.ones(context.categories)
        self.waited = np.full(context.categories, float(context.blocks))
        self.chance = np.full(context.categories, math.log(0.5))
        self.rate = np.full(context.categories, 1.0 / context.blocks)

    def serving(self, category: int) -> None:
        self.present = category

    def started(self, request: int, hittable: int) -> None:
        for i in range(self.queues):
            self.chance[i] = math.log(min(1.0, self.reused_nodes[i] / self.released_nodes[i]))
            self.rate[i] = self.reused_nodes[i] / self.waited[i]

    def reuse(self, node: int) -> None:
        if self.left[node] >= 0:
            self.reused_nodes[self.category[node]] += 1
            self.waited[self.category[node]] += self.now - self.left[node]
            self.left[node] = -1

    def cached(self, node: int, parent: int) -> None:
        self.now += 1
        # A ghost's return counts too, or only what survived would be seen.
        self.reuse(node)
        self.category[node] = self.present

    def hit(self, node: int) -> None:
        self.reuse(node)
        self.category[node] = self.present

    def released(self, node: int) -> None:
        self.left[node] = self.now
        self.released_nodes[self.category[node]] += 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.category[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        best, lowest = -1, 0.0
        for queue in range(self.queues):
            block = index.leaves.first(queue)
            if block >= 0:
                age = self.now - self.left[index.node[block]]
                score = self.chance[queue] - age * self.rate[queue]
                if best < 0 or score < lowest:
                    best, lowest = block, score
        return best

    def forgotten(self, node: int) -> None:
        self.left[node] = -1
