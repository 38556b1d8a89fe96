"""Blocks by the priority that clients give them, for as long as they say; LRU within a priority.

Source: TensorRT-LLM's retention of KV blocks (its KvCacheRetentionConfig, documentation read): priorities 0 to 100, 35
where nobody says one, evicted from the lowest; one with a duration falls back to 35 when that has passed since the
request's arrival. Not as there: a request has one priority for all of its blocks and not one for each range of tokens;
no more than `share` of the blocks are above 35 at a time, so that clients who ask for more cannot take the whole cache.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.pairing_heaps import PairingHeaps
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex

LEVELS = 101
UNSAID = 35


@compiled
class Priority(Policy):
    """A queue for each priority, each of them LRU. Without hints it is LRU.

    Args:
        context: see Policy.
        share: of the blocks that can be above the priority of those of which nothing is said.

    Raises:
        ValueError: a value is out of range.
    """

    queues = LEVELS

    def __init__(self, context: PolicyContext, share: float = 0.5):
        super().__init__(context)
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; allowed: 0 to 1")
        self.limit = int(share * context.blocks)
        self.now_ms = 0.0
        self.said = UNSAID
        self.until_ms = -1
        self.count = 0
        self.said_of = np.full(context.nodes, UNSAID, np.int64)
        self.until_of = np.full(context.nodes, -1, np.int64)
        self.level = np.full(context.nodes, UNSAID, np.int64)
        self.is_raised = np.zeros(context.nodes, np.bool_)
        # Nodes whose priority ends, by the time at which it does.
        self.ends = PairingHeaps(context.nodes, 1, np.arange(context.nodes))

    def serves(self, facts: RequestFacts) -> None:
        if facts.arrival_ms > self.now_ms:  # and no NaN
            self.now_ms = facts.arrival_ms
        self.said = UNSAID
        if facts.retention_priority >= 0:
            self.said = min(int(facts.retention_priority), LEVELS - 1)
        self.until_ms = -1
        if facts.retention_ms >= 0 and self.said != UNSAID:
            self.until_ms = int(self.now_ms + facts.retention_ms)

    def cached(self, node: int, parent: int) -> None:
        self.use(node)

    def hit(self, node: int) -> None:
        self.use(node)

    def use(self, node: int) -> None:
        """The last request's word counts."""
        self.said_of[node] = self.said
        self.until_of[node] = self.until_ms

    def released(self, node: int) -> None:
        # Not when it is cached: a request's own chunks must not change what it evicts.
        self.lower(node)
        if self.said_of[node] > UNSAID:
            if self.count >= self.limit:
                return
            self.is_raised[node] = True
            self.count += 1
        self.level[node] = self.said_of[node]
        if self.until_of[node] >= 0:
            self.ends.push(node, 0, self.until_of[node])

    def lower(self, node: int) -> None:
        self.level[node] = UNSAID
        if self.is_raised[node]:
            self.is_raised[node] = False
            self.count -= 1
        if self.ends.queue[node] >= 0:
            self.ends.remove(node)

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.level[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        while True:
            node = self.ends.first(0)
            if node < 0 or self.ends.key[node] > self.now_ms:
                break
            self.lower(node)
            index.rerank(self, node)
        for level in range(LEVELS):
            block = index.leaves.first(level)
            if block >= 0:
                return block
        return -1

    def evicted(self, node: int) -> None:
        self.lower(node)
