"""What is cheap to compute and seldom used goes first, and what was left alone loses against what is new.

Source: Cherkasova, "Improving WWW proxies performance with Greedy-Dual-Size-Frequency caching policy", HP Laboratories
1998: priority = L + uses x cost / size, set at each use; L is the priority of what was evicted last. RAGCache (Jin et
al., 2024) takes it to prefixes with the time of computing as cost. Here all blocks are of one size, and the cost of a
block is 1 + (blocks before it) / `attention_blocks`: what its attention reads grows with its place in the prompt. Not
as there: only leaves are evicted.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

_UNIT = 2**20
"""What the priority 1 is as a key."""


@compiled
class Gdsf(Policy):
    """Counts requests, not chunks nor retries.

    Args:
        context: see Policy.
        attention_blocks: blocks before a block at which it costs twice as much as a first one.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(self, context: PolicyContext, attention_blocks: float = 512.0):
        super().__init__(context)
        if not 1 <= attention_blocks <= 1e9:
            raise ValueError(f"attention_blocks is {attention_blocks}; allowed: 1 to 1e9")
        self.attention_blocks = float(attention_blocks)
        self.last = 0
        self.uses = np.zeros(context.nodes, np.int64)
        self.depth = np.zeros(context.nodes, np.int64)
        self.key = np.zeros(context.nodes, np.int64)

    def cached(self, node: int, parent: int) -> None:
        self.uses[node] = 1
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0

    def hit(self, node: int) -> None:
        self.uses[node] += 1

    def released(self, node: int) -> None:
        cost = 1.0 + self.depth[node] / self.attention_blocks
        self.key[node] = self.last + int(_UNIT * cost * self.uses[node])

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.key[node]

    def victim(self, index: PrefixIndex) -> int:
        block = index.leaves.first(0)
        self.last = index.leaves.key[block]
        return block
