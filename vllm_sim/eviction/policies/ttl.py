"""LRU, but what a client says it comes back to stays until then, and what it says is over goes at once.

Source: Continuum (Li et al., 2025, arXiv 2511.02230), whose time to live is today's CacheTTL: a session that waits for
a tool keeps its blocks for about as long as the tool takes. Here the client says how long (`next_turn_ms`), times
`slack`; what is said beyond `most_ms` counts as that. Where all that is left is still to live, what comes back last
goes. `session_end` ends it for the blocks that belong to the session alone: those that no request used which continues
no other one (continuations.py). Without hints it is LRU.

Clients who say more than is true cannot take the cache from others: of all blocks no greater share is kept than that of
those that were kept and came back in time, of late; the first that are released are. Not as there: this bound; no
scheduling by time to live; only leaves are evicted.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.continuations import CONTINUES, Continuations
from vllm_sim.eviction.pairing_heaps import PairingHeaps
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex

TRUST = 0.1
"""For how many nodes that came back in time the good name counts that all clients begin with, as a multiple of the
blocks."""


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
        self.blocks = context.blocks
        # Nodes that are kept, by the time until which they are, and how many.
        self.kept = PairingHeaps(context.nodes, 1, np.arange(context.nodes))
        self.count = 0
        # Nodes that were kept: those that came back in time, and all; half as much after as many as there are blocks.
        self.came = TRUST * context.blocks
        self.ended = TRUST * context.blocks
        self.fade = 0.5 ** (1 / context.blocks)

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
        if self.kept.queue[node] >= 0:
            self.end(node, self.kept.key[node] > self.now_ms)
        self.until_ms[node] = self.now_ms + self.keep_ms
        self.is_last[node] = self.is_over

    def released(self, node: int) -> None:
        place = self.sessions.place(self.sessions.request[node])
        if self.used_before[node] and (place < 0 or self.sessions.kind[place] != CONTINUES):
            self.is_shared[node] = True
        self.leave(node)
        if self.until_ms[node] > self.now_ms:
            self.keep(node)

    def keep(self, node: int) -> None:
        """Keeps a node until its time, if there is room among those that are kept."""
        late = self.kept.first(0)
        while late >= 0 and self.kept.key[late] <= self.now_ms:
            self.end(late, False)
            late = self.kept.first(0)
        if self.count * self.ended < self.came * self.blocks:
            self.kept.push(node, 0, int(self.until_ms[node]))
            self.count += 1
        else:
            self.until_ms[node] = self.now_ms

    def end(self, node: int, is_use: bool) -> None:
        """A node is kept no more: it came back in time, or its time is over."""
        self.came = self.fade * self.came + is_use
        self.ended = self.fade * self.ended + 1
        self.leave(node)

    def leave(self, node: int) -> None:
        if self.kept.queue[node] >= 0:
            self.kept.remove(node)
            self.count -= 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        if self.is_last[node] and not self.is_shared[node]:
            return 0, -1
        return 0, int(self.until_ms[node])

    def victim(self, index: PrefixIndex) -> int:
        block = index.leaves.first(0)
        if index.leaves.key[block] > self.now_ms:
            return index.back.first(0)
        return block

    def evicted(self, node: int) -> None:
        self.leave(node)

    def forgotten(self, node: int) -> None:
        self.sessions.forget(node)
