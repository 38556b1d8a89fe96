"""LRU by an age that a survival table stretches or shrinks, within bounds.

Source: IntelliKV (github.com/jwlaboratory/intellikv, its findings as written there in 2026): a leaf's score is its age
times ((1 - p) / (1 - P))^gamma, and the highest goes first; p is the chance that a block of the same features and age
is used again within the time that a new block stays, P that of all blocks of that age; the ratio is held between 1/24
and 24. Time counts computed blocks, and a new block stays for as many as there are. Features: use count, depth, and the
time between the chain's last two requests. Not as there: neither tenants nor text; gamma is a constant and does not
follow the size of the cache; not 24 blocks are drawn and ranked but the oldest one of each class; one not used again
is counted when its ghost is forgotten; estimates are shrunk towards those of all blocks with `prior` trials.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex

USES, DEPTHS, PAUSES = 5, 2, 5
QUEUES = USES * DEPTHS * PAUSES
AGES = 48
"""One to an octave: 0, 1, 2 to 3, 4 to 7 ..."""
_BOUND = 24.0


@compiled
class IntelliKV(Policy):
    """O(classes) for a victim, O(ages) for a use.

    Args:
        context: see Policy.
        gamma: how much a class counts; 0 for LRU.
        prior: see above.
        deep: blocks before a block from which on it is deep.

    Raises:
        ValueError: a value is out of range.
    """

    queues = QUEUES

    def __init__(self, context: PolicyContext, gamma: float = 3.0, prior: float = 50.0, deep: int = 64):
        super().__init__(context)
        for name, value, low, high in (("gamma", gamma, 0, 100), ("prior", prior, 1e-3, 1e9), ("deep", deep, 0, 1e9)):
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; allowed: {low} to {high}")
        self.ghosts = 4 * context.blocks
        self.blocks = context.blocks
        self.gamma = float(gamma)
        self.prior = float(prior)
        self.deep = int(deep)
        self.now = 0
        self.time = 0
        self.arrival_ms = np.nan
        self.uses = np.zeros(context.nodes, np.int64)
        self.depth = np.zeros(context.nodes, np.int64)
        self.left = np.full(context.nodes, -1, np.int64)
        self.left_ms = np.full(context.nodes, np.nan)
        self.pause = np.zeros(context.nodes, np.int64)
        self.kind = np.zeros(context.nodes, np.int64)
        # Blocks that came to an age, and of them those that were used within the time that a new block stays.
        self.came = np.zeros((QUEUES, AGES))
        self.returned = np.zeros((QUEUES, AGES))
        self.all_came = np.zeros(AGES)
        self.all_returned = np.zeros(AGES)

    def serves(self, facts: RequestFacts) -> None:
        self.arrival_ms = facts.arrival_ms

    def started(self, request: int, hittable: int) -> None:
        self.time = self.now

    def bin(self, age: int) -> int:
        return min(int(np.log2(age + 1.0)), AGES - 1)

    def end(self, node: int, is_use: bool) -> None:
        """A node is used again, or forgotten."""
        if self.left[node] < 0:
            return
        age, kind = self.time - self.left[node], self.kind[node]
        self.left[node] = -1
        for at in range(self.bin(age) + 1):
            stayed = age - (2**at - 1)
            is_return = is_use and stayed <= self.blocks
            if is_return or stayed > self.blocks:  # else nobody knows
                self.came[kind, at] += 1
                self.all_came[at] += 1
                self.returned[kind, at] += is_return
                self.all_returned[at] += is_return

    def use(self, node: int) -> None:
        self.end(node, True)
        waited_s = (self.arrival_ms - self.left_ms[node]) / 1000
        if waited_s >= 0:  # and no NaN
            self.pause[node] = 1 + (waited_s >= 2) + (waited_s >= 15) + (waited_s >= 90)
        self.uses[node] += 1

    def cached(self, node: int, parent: int) -> None:
        self.now += 1
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0
        if self.uses[node] == 0 and parent >= 0:
            self.pause[node] = self.pause[parent]
        self.use(node)

    def hit(self, node: int) -> None:
        self.use(node)

    def released(self, node: int) -> None:
        count = self.uses[node]
        # From 0: numpy takes the sum of two truth values for one.
        uses = 0 + (count > 1) + (count > 2) + (count > 4) + (count > 16)
        self.kind[node] = (uses * DEPTHS + (self.depth[node] >= self.deep)) * PAUSES + self.pause[node]
        self.left[node] = self.time
        self.left_ms[node] = self.arrival_ms

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.kind[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        best, highest = -1, 0.0
        for queue in range(QUEUES):
            block = index.leaves.first(queue)
            if block >= 0:
                age = self.time - self.left[index.node[block]]
                score = (age + 1.0) * self.stretch(queue, self.bin(age)) ** self.gamma
                is_older = best >= 0 and score == highest and index.leaves.key[block] < index.leaves.key[best]
                if best < 0 or score > highest or is_older:
                    best, highest = block, score
        return best

    def stretch(self, kind: int, at: int) -> float:
        """How much older a block counts than it is."""
        of_all = (self.all_returned[at] + 1.0) / (self.all_came[at] + 2.0)
        own = (self.returned[kind, at] + self.prior * of_all) / (self.came[kind, at] + self.prior)
        return max(1 / _BOUND, min(_BOUND, (1.0 - own + 1e-9) / (1.0 - of_all + 1e-9)))

    def forgotten(self, node: int) -> None:
        self.end(node, False)
        self.uses[node] = 0
        self.pause[node] = 0
        self.left_ms[node] = np.nan
