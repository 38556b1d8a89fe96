"""A block at random, every leaf with the same chance.

Each leaf gets an exponential lifetime from the moment it becomes one. Such lifetimes have no memory: whatever came
before, each of the leaves is equally likely to be the next to end, and one heap is enough.
"""

import math

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

# The "minimal standard" generator of Park and Miller (CACM 1988) with the multiplier of 1993: the same numbers in
# Python and in compiled code.
_MULTIPLIER, _MODULUS = 48271, 2**31 - 1
_MEAN_LIFETIME = 2.0**32


@compiled
class Random(Policy):
    """Reproducible by the seed."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.state = 1 + context.seed % (_MODULUS - 1)
        self.now = 0

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        self.state = self.state * _MULTIPLIER % _MODULUS
        return 0, self.now + int(-math.log(self.state / _MODULUS) * _MEAN_LIFETIME)

    def victim(self, index: PrefixIndex) -> int:
        block = index.leaves.first(0)
        self.now = index.leaves.key[block]
        return block
