"""Least hit density: what is expected to give the fewest hits for the room and time that it will take goes first.

Source: Beckmann, Chen, Cidon, "LHD: improving cache hit rate by maximizing hit density", NSDI 2018. For each class and
age, counts of hits and of evictions; density(age) = hits at that age or later / time from that age to those hits and
evictions, over all that reached it. Classes as there: by the sum of a node's last two ages at a use, one for nodes
that were not used again yet. Time counts computed blocks. Not as there: only leaves are evicted; not 64 blocks are
drawn and ranked but both ends of each class's LRU queue; ages are binned by half octaves, and a class has at least the
share `prior` of all classes' counts.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

CLASSES = 16
AGES = 96
"""Two to an octave, as in hybrid.py: 0, 1, 2, 3, 4 to 5, 6 to 7, 8 to 11 ..."""


@compiled
class Lhd(Policy):
    """O(classes) for a victim.

    Args:
        context: see Policy.
        keep: share of the counts that stays when densities are computed anew, after as many blocks as there are.
        prior: see above.

    Raises:
        ValueError: a value is out of range.
    """

    queues = CLASSES
    both_ends = True

    def __init__(self, context: PolicyContext, keep: float = 0.9, prior: float = 0.01):
        super().__init__(context)
        for name, value in (("keep", keep), ("prior", prior)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; allowed: 0 to 1")
        self.ghosts = context.blocks
        self.blocks = context.blocks
        self.keep = float(keep)
        self.prior = float(prior)
        self.now = 0
        self.time = 0
        self.refreshed = 0
        self.left = np.full(context.nodes, -1, np.int64)
        # The age at a node's last use, -1 before its first use.
        self.last_age = np.full(context.nodes, -1, np.int64)
        self.kind = np.zeros(context.nodes, np.int64)
        self.hits = np.zeros((CLASSES, AGES))
        self.evictions = np.zeros((CLASSES, AGES))
        # Before there is anything to go by, old blocks are worth less.
        self.density = np.zeros((CLASSES, AGES))
        for age in range(AGES):
            self.density[:, age] = 1.0 / (age + 1)

    def bin(self, age: int) -> int:
        if age < 2:
            return max(age, 0)
        # The exponent of the number and the first bit of its fraction.
        return min(int(np.float64(age).view(np.int64) >> 51) - 2 * 1023, AGES - 1)

    def started(self, request: int, hittable: int) -> None:
        self.time = self.now
        if self.now - self.refreshed >= self.blocks:
            self.refreshed = self.now
            self.refresh()

    def cached(self, node: int, parent: int) -> None:
        self.now += 1
        self.left[node] = -1
        if self.last_age[node] < 0:
            self.kind[node] = 0

    def hit(self, node: int) -> None:
        if self.left[node] < 0:
            return  # used twice in one request
        age = self.time - self.left[node]
        self.hits[self.kind[node], self.bin(age)] += 1
        ages = age + max(self.last_age[node], 0)
        self.kind[node] = 1 + min(self.bin(16 * ages // self.blocks) // 2, CLASSES - 2)
        self.last_age[node] = age
        self.left[node] = -1

    def released(self, node: int) -> None:
        self.left[node] = self.time

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.kind[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        best, lowest = -1, 0.0
        for queue in range(CLASSES):
            oldest = index.leaves.first(queue)
            if oldest < 0:
                continue
            density = self.density[queue, self.bin(self.time - self.left[index.node[oldest]])]
            if best < 0 or density < lowest:
                best, lowest = oldest, density
            newest = index.back.first(queue)
            density = self.density[queue, self.bin(self.time - self.left[index.node[newest]])]
            if density < lowest:
                best, lowest = newest, density
        return best

    def evicted(self, node: int) -> None:
        age = self.time - self.left[node] if self.left[node] >= 0 else 0
        self.evictions[self.kind[node], self.bin(age)] += 1

    def forgotten(self, node: int) -> None:
        self.left[node] = -1
        self.last_age[node] = -1
        self.kind[node] = 0

    def refresh(self) -> None:
        """Computes densities from the last age to the first; in loops, as array expressions take long to compile."""
        for queue in range(CLASSES):
            later_hits, later, time = 0.0, 0.0, 0.0
            for age in range(AGES - 1, -1, -1):
                hits, events = self.hits[queue, age], self.evictions[queue, age]
                for other in range(CLASSES):
                    hits += self.prior * self.hits[other, age]
                    events += self.prior * self.evictions[other, age]
                width = 1.0 if age < 2 else 2.0 ** (age // 2 - 1)
                # What is still there at the bin's end stays for all of it; what leaves in it, for half.
                time += width * (later + (hits + events) / 2)
                later += hits + events
                later_hits += hits
                if time > 0:
                    self.density[queue, age] = later_hits / time
        for queue in range(CLASSES):
            for age in range(AGES):
                self.hits[queue, age] *= self.keep
                self.evictions[queue, age] *= self.keep
