"""LRU for the slowest turns: of each conversation what may be lost without a slow next turn goes first.

Source: Zhang et al., "Tail-optimized caching for LLM inference", NeurIPS 2025 (arXiv 2510.15152), as proposed in vLLM
pull request 37825: a request of H blocks whose next turn adds Q is fast enough if no more than `budget` blocks are to
be computed then, so that only its first max(0, H + Q - budget) blocks have to stay; the others go first, both groups by
LRU. What it optimises is the tail of the time to the first token; its hit rate is below LRU's as a rule. Not as there:
numbers are of blocks; a block that several requests share counts as the last of them left it.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex


@compiled
class TailLru(Policy):
    """Two LRU queues: what is safe to lose, and the rest.

    Args:
        context: see Policy.
        budget: blocks that a turn may have to compute.
        next_prompt: blocks that a next turn adds.

    Raises:
        ValueError: a value is out of range.
    """

    queues = 2

    def __init__(self, context: PolicyContext, budget: int = 64, next_prompt: int = 8):
        super().__init__(context)
        for name, value in (("budget", budget), ("next_prompt", next_prompt)):
            if not 0 <= value <= 2**31:
                raise ValueError(f"{name} is {value}; allowed: 0 to {2**31}")
        self.spare = int(budget) - int(next_prompt)
        self.depth = np.zeros(context.nodes, np.int64)
        self.above = np.full(context.nodes, -1, np.int64)
        self.kept = np.zeros(context.nodes, np.int64)
        # Of the chain that is being released: the node that comes next, and its blocks.
        self.next = -1
        self.chain_blocks = 0

    def cached(self, node: int, parent: int) -> None:
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0
        self.above[node] = parent

    def released(self, node: int) -> None:
        if node != self.next:
            self.chain_blocks = self.depth[node] + 1
        self.next = self.above[node]
        self.kept[node] = self.depth[node] < self.chain_blocks - self.spare

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.kept[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        safe = index.leaves.first(0)
        return safe if safe >= 0 else index.leaves.first(1)
