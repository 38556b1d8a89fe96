"""Randomised marking of leaves: a random one goes of those that were not used in the present phase; a phase ends when
there is none.

Source: Wu, Silwal, Zhang, "Randomization boosts KV caching, learning balances query load", ICLR 2026 (arXiv
2601.18999), its eviction: randomised leaf tokens, O(log n)-competitive; marking is of Fiat et al., "Competitive paging
algorithms", 1991. Not as there: leaves are blocks and not tokens. Draws are reproducible.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

# As in random.py: the same numbers in Python and in compiled code.
_MULTIPLIER, _MODULUS = 48271, 2**31 - 1


@compiled
class RandomLeaf(Policy):
    """Two queues in a random order, of unmarked and marked blocks, which change places when a phase ends."""

    queues = 2

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.state = 1 + context.seed % (_MODULUS - 1)
        self.phase = 0
        self.marked_in = np.full(context.nodes, -1, np.int64)
        self.key = np.zeros(context.nodes, np.int64)

    def released(self, node: int) -> None:
        self.state = self.state * _MULTIPLIER % _MODULUS
        self.key[node] = self.state
        self.marked_in[node] = self.phase

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        is_marked = self.marked_in[node] == self.phase
        return (self.phase + is_marked) % 2, self.key[node]

    def victim(self, index: PrefixIndex) -> int:
        if index.leaves.first(self.phase % 2) < 0:
            self.phase += 1
        return index.leaves.first(self.phase % 2)
