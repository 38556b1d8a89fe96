"""LRU that knows which blocks no request will need again: those go first.

In chat these are blocks of sessions that are over. Between LRU and this lies what a client could give by saying so;
between this and `belady`, what only the times of the next turns tell. It knows the future: nobody can be served by it.
"""

from dataclasses import replace

import numpy as np

from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains
from vllm_sim.eviction.compiled import compiled, native
from vllm_sim.eviction.policies.belady import Belady
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.simulate import make_context
from vllm_sim.replay.breakdown import Blocks, breakdown
from vllm_sim.replay.outcome import Outcome, Totals


@compiled
class SessionEndOracle(Belady):
    """Last used longest ago first, after second copies and blocks that no row needs any more."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        while self.next[node] < self.end[node] and self.uses[self.next[node]] < 2 * (self.row + 1):
            self.next[node] += 1
        is_over = self.next[node] == self.end[node] or self.uses[self.next[node]] % 2 == 1
        return 0, stamp - 2**62 if copies > 1 or is_over else stamp


def with_oracle(outcome: Outcome, chains: Chains, capacity_blocks: int) -> Outcome:
    """Another policy's run of the same requests, with what they would have found under `SessionEndOracle`."""
    ranker = SessionEndOracle(make_context(chains, "belady", capacity_blocks))
    index = PrefixIndex(capacity_blocks, chains.working_set, ranker, recycle=False)
    out = np.zeros((chains.need.size, 6), np.int64)
    slots = kernel.empty_slots(capacity_blocks)
    kernel.serve(native(index), native(ranker), chains, slots, np.arange(chains.need.size), out)
    hit, generated, cold, missed, _, allocated = out.T
    blocks = Blocks(hit, generated, cold, missed)
    parts = breakdown(blocks, outcome.prompt_tokens, outcome.block_size)
    totals = Totals(chains.working_set, 0, 0)
    return replace(outcome, parts=parts, blocks_allocated=allocated, totals=totals)
