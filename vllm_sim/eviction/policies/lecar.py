"""Two experts, LRU and LFU; which of them evicts is drawn by weights that their regret moves.

Source: Vietri et al., "Driving cache replacement with ML-based LeCaR", HotStorage 2018: the expert that evicted what is
wanted again loses weight, by a factor of exp(-rate x discount^(time since then)); discount = 0.005^(1 / blocks), rate =
0.45. Time counts computed blocks. Not as there: only leaves are evicted; the weights move once per request, by the mean
over the ghosts that it brings back, since a request brings back a whole chain; both histories are one list of as many
ghosts as there are blocks; use counts above 16 are the same; counts start anew after an eviction. Draws are
reproducible.
"""

import math

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

LRU, LFU = 0, 1
_COUNTS = 16
# As in random.py: the same numbers in Python and in compiled code.
_MULTIPLIER, _MODULUS = 48271, 2**31 - 1


@compiled
class LeCaR(Policy):
    """Queues by use count, each of them LRU.

    Args:
        context: see Policy.
        rate: how fast weights move.

    Raises:
        ValueError: a value is out of range.
    """

    queues = _COUNTS

    def __init__(self, context: PolicyContext, rate: float = 0.45):
        super().__init__(context)
        if not 0 <= rate <= 100:
            raise ValueError(f"rate is {rate}; allowed: 0 to 100")
        self.ghosts = context.blocks
        self.rate = float(rate)
        self.discount = 0.005 ** (1.0 / context.blocks)
        self.state = 1 + context.seed % (_MODULUS - 1)
        self.now = 0
        self.uses = np.zeros(context.nodes, np.int64)
        self.gone = np.zeros(context.nodes, np.int64)
        # Who evicted a ghost, -1 for none.
        self.by = np.full(context.nodes, -1, np.int64)
        self.weight = np.full(2, 0.5)
        # Ghosts that the present request brought back, by the expert that evicted them, and their discounts.
        self.returned = np.zeros(2, np.int64)
        self.regret = np.zeros(2)
        self.chosen = LRU

    def started(self, request: int, hittable: int) -> None:
        for expert in (LRU, LFU):
            if self.returned[expert]:
                self.weight[expert] *= math.exp(-self.rate * self.regret[expert] / self.returned[expert])
        total = self.weight[LRU] + self.weight[LFU]
        for expert in (LRU, LFU):
            self.weight[expert] = max(self.weight[expert] / total, 1e-9)
            self.returned[expert] = 0
            self.regret[expert] = 0.0

    def cached(self, node: int, parent: int) -> None:
        self.now += 1
        self.uses[node] = 1
        if self.by[node] >= 0:
            self.returned[self.by[node]] += 1
            self.regret[self.by[node]] += self.discount ** (self.now - self.gone[node])
            self.by[node] = -1

    def hit(self, node: int) -> None:
        self.uses[node] += 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return min(self.uses[node], _COUNTS) - 1, stamp

    def victim(self, index: PrefixIndex) -> int:
        self.state = self.state * _MULTIPLIER % _MODULUS
        self.chosen = LRU if self.state < self.weight[LRU] * _MODULUS else LFU
        best = -1
        for queue in range(_COUNTS):
            block = index.leaves.first(queue)
            if block >= 0 and (best < 0 or index.leaves.key[block] < index.leaves.key[best]):
                best = block
                if self.chosen == LFU:
                    break
        return best

    def evicted(self, node: int) -> None:
        self.by[node] = self.chosen
        self.gone[node] = self.now

    def forgotten(self, node: int) -> None:
        self.by[node] = -1
