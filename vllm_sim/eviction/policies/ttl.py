"""LRU, but what a client says it comes back to stays until then, and what it says is over goes at once.

Source: Continuum (Li et al., 2025, arXiv 2511.02230), whose time to live is today's CacheTTL: a session that waits for
a tool keeps its blocks for about as long as the tool takes. Here the client says how long (`next_turn_ms`), times
`slack`; what is said beyond `most_ms` counts as that. Where all that is left is still to live, what comes back last
goes. `session_end` ends it for the blocks that belong to the session alone: those that no request used which continues
no other one (continuations.py). Without hints it is LRU. Not as there: no scheduling by time to live; only leaves are
evicted.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.continuations import CONTINUES, Continuations
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex


@compiled
class TimeToLive(Policy):
    """One queue, in the order of the time at which blocks are no more kept.

    Args:
        context: see Policy.
        slack: times what a client says.
        most_ms: see above; a liar keeps its blocks for so long at most.

    Raises:
        ValueError: a value is out of range.
    """

    both_ends = True

    def __init__(self, context: PolicyContext, slack: float = 1.5, most_ms: float = 300_000.0):
        super().__init__(context)
        for name, value in (("slack", slack), ("most_ms", most_ms)):
            if not 0 <= value <= 1e12:
                raise ValueError(f"{name} is {value}; allowed: 0 to 1e12")
        self.slack = float(slack)
        self.most_ms = float(most_ms)
        self.sessions = Continuations(context.nodes)
        self.matched = 0
        self.now_ms = 0.0
        self.keep_ms = 0.0
        self.is_over = False
        self.until_ms = np.zeros(context.nodes)
        self.is_last = np.zeros(context.nodes, np.bool_)
        self.used_before = np.zeros(context.nodes, np.bool_)
        self.is_shared = np.zeros(context.nodes, np.bool_)

    def serves(self, facts: RequestFacts) -> None:
        self.sessions.prompt_end = facts.prompt_blocks
        self.matched = facts.matched
        if facts.arrival_ms > self.now_ms:  # and no NaN
            self.now_ms = facts.arrival_ms
        self.is_over = facts.session_end == 1
        self.keep_ms = 0.0
        if facts.next_turn_ms >= 0:
            self.keep_ms = min(self.slack * facts.next_turn_ms, self.most_ms)

    def started(self, request: int, hittable: int) -> None:
        self.sessions.start(self.sessions.prompt_end, self.matched)

    def cached(self, node: int, parent: int) -> None:
        self.sessions.cache(node, parent)
        self.used_before[node] = False
        self.is_shared[node] = False
        self.use(node)

    def hit(self, node: int) -> None:
        self.sessions.hit(node)
        self.used_before[node] = True
        self.use(node)

    def use(self, node: int) -> None:
        self.until_ms[node] = self.now_ms + self.keep_ms
        self.is_last[node] = self.is_over

    def released(self, node: int) -> None:
        place = self.sessions.place(self.sessions.request[node])
        if self.used_before[node] and (place < 0 or self.sessions.kind[place] != CONTINUES):
            self.is_shared[node] = True

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        if self.is_last[node] and not self.is_shared[node]:
            return 0, -1
        return 0, int(self.until_ms[node])

    def victim(self, index: PrefixIndex) -> int:
        block = index.leaves.first(0)
        if index.leaves.key[block] > self.now_ms:
            return index.back.first(0)
        return block

    def forgotten(self, node: int) -> None:
        self.sessions.forget(node)
