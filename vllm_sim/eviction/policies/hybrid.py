"""Hazard classes behind a guard: what is least worth its room goes, as long as that can cost little against LRU.

Classes. A node's class says how often requests used it, and how often the chain that it continues had been used when it
was computed: a later turn of a chat differs in that from a call that never comes again. Each class is an LRU queue. The
chance of a use in the next interval of age is estimated for each class, as in survival analysis, and blended into that
of its use count and of all nodes where a class has seen little. Evicted nodes stay known as ghosts, so that what
eviction hides is seen too; who still waits counts for as long as it has waited. A block's worth is its Gittins index:
the highest ratio, over all times to give it up, of the chance of a use until then to the room (blocks times time) that
it takes until then. Of the two ends of all queues the one with the lowest worth goes, if that is clearly less than the
worth of the one that was used the longest time ago, and else that one. A class that is used again after a set time, as
in a loop, is worth least right after a use: the end that LRU keeps. Time counts computed blocks.

Guard. A list of nodes is kept as LRU would hold them, and the hits that LRU would have had are counted. What LRU holds
and this cache does not may cost a hit each, with about the chance at which LRU's blocks are hit. The classes decide
only while that risk stays below what was won over LRU, up to the cache's size, and `slack` of the prompts' blocks.
Else the block that was used the longest time ago goes, which LRU does not hold any more, and the cache becomes LRU's.
Nothing here proves a bound: the risk is an estimate, and a batch's unfinished requests and partial blocks are not in
the list. A reset of the prefix cache empties the list of what was cached; what had been evicted before stays in it.

Sources: Gittins, "Bandit processes and dynamic allocation indices", 1979; Beckmann, Chen, Cidon, "LHD: improving cache
hit rate by maximizing hit density", NSDI 2018 (hits over time and room, by class and age); Kaplan, Meier,
"Nonparametric estimation from incomplete observations", 1958. Not as there: leaves only, classes of chains, the guard.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.linked_list import LinkedList
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex

USES = 5
"""Classes of use counts: 1, 2, 3 to 4, 5 to 16, more."""
AGES = 96
"""Bins of age, two to an octave: 0, 1, 2, 3, 4 to 5, 6 to 7, 8 to 11, 12 to 15 ..."""


@compiled
class Hybrid(Policy):
    """O(classes) for a victim, O(1) for all else but a refresh of the table once every so many computed blocks.

    Args:
        context: see Policy.
        ghosts: evicted nodes that stay known, as a multiple of the blocks; with few of them the guard forgets part of
            what LRU would hold, with none it never acts.
        slack: share of the prompts' blocks that may be at risk against LRU.
        margin: by what share the worth of a block must be below that of the oldest one to go in its place.
        prior: for how many nodes the estimate of a wider class counts in a narrower one, as a multiple of the blocks.
        memory: computed blocks, as a multiple of the blocks, after which an observation counts half.
        uses: 1; 0: classes do not look at use counts.
        origins: 1; 0: classes do not look at the chain that a node continues.
        ages: 1; 0: worth does not look at the age.
        ends: 1; 0: of a queue only the node that was left alone the longest is looked at.

    Raises:
        ValueError: a value is out of range.
    """

    both_ends = True

    def __init__(
        self,
        context: PolicyContext,
        ghosts: float = 4.0,
        slack: float = 0.002,
        margin: float = 0.05,
        prior: float = 0.05,
        memory: float = 16.0,
        uses: int = 1,
        origins: int = 1,
        ages: int = 1,
        ends: int = 1,
    ):
        super().__init__(context)
        for name, value, low, high in (
            ("ghosts", ghosts, 0, 1000),
            ("slack", slack, 0, 1e9),
            ("margin", margin, 0, 1),
            ("prior", prior, 0, 1e9),
            ("memory", memory, 0.01, 1e9),
        ):
            if not low <= value <= high:  # a NaN is in no range
                raise ValueError(f"{name} is {value}; allowed: {low} to {high}")
        for name, value in (("uses", uses), ("origins", origins), ("ages", ages), ("ends", ends)):
            if value not in (0, 1):
                raise ValueError(f"{name} is {value}; allowed: 0, 1")
        self.ghosts = int(ghosts * context.blocks)
        self.blocks = context.blocks
        self.slack = slack
        self.margin = margin
        self.prior = prior * context.blocks
        self.uses = uses
        self.origins = origins
        self.ages = ages
        self.ends = ends
        self.queues = USES * USES if origins else USES
        self.refresh_blocks = max(256, context.blocks // 8)
        self.keep = 0.5 ** (self.refresh_blocks / (memory * context.blocks))
        # Time: now counts on, time is what it was when the present request began.
        self.now = 0
        self.time = 0
        self.refreshed = 0
        self.count = np.zeros(context.nodes, np.int32)
        self.origin = np.zeros(context.nodes, np.int8)
        self.kind = np.zeros(context.nodes, np.int8)
        self.left = np.full(context.nodes, -1, np.int64)
        self.gone = np.zeros(context.nodes, np.bool_)
        # Waits by class: how many ended at which age, with a use or forgotten, and how many began when and go on.
        self.reused = np.zeros((self.queues, AGES))
        self.lost = np.zeros((self.queues, AGES))
        self.waiting = np.zeros((self.queues, 2 * (self.blocks + self.ghosts) // self.refresh_blocks + 1), np.int32)
        self.worth = np.zeros((self.queues, AGES))
        self.in_lru = LinkedList(context.nodes)
        # Nodes that LRU holds and this cache does not; uses of nodes, hits among them of LRU, and how many more here.
        self.missing = 0
        self.used = 0
        self.lru_hits = 0
        self.won = 0
        # Blocks of prompts that could have been hit.
        self.asked = 0

    def bucket(self, count: int) -> int:
        if not self.uses:
            return 0
        if count <= 2:
            return max(count, 1) - 1
        return 2 if count <= 4 else 3 if count <= 16 else 4

    def bin(self, age: int) -> int:
        if not self.ages:
            return 0
        if age < 2:
            return max(age, 0)
        # The exponent of the number and the first bit of its fraction.
        return min(int(np.float64(age).view(np.int64) >> 51) - 2 * 1023, AGES - 1)

    def started(self, request: int, hittable: int) -> None:
        self.time = self.now
        self.asked += hittable
        if self.now - self.refreshed >= self.refresh_blocks:
            self.refreshed = self.now
            self.refresh()

    def place(self, then: int) -> int:
        """Where a wait that began then is counted; places are used again after twice a ghost's life."""
        return (then // self.refresh_blocks) % self.waiting.shape[1]

    def stop(self, node: int, ends: np.ndarray) -> None:
        """The wait of a node ends."""
        kind, left = self.kind[node], self.left[node]
        self.waiting[kind, self.place(left)] -= 1
        ends[kind, self.bin(self.time - left)] += 1
        self.left[node] = -1

    def use(self, node: int) -> None:
        self.used += 1
        if self.left[node] >= 0:
            self.stop(node, self.reused)
        self.count[node] += 1
        # LRU's copy of the cache, in the order of use; released() puts it into the order of release.
        if self.in_lru.holds(node):
            self.won -= 1
            self.lru_hits += 1
            self.in_lru.remove(node)
        self.in_lru.append(node)

    def cached(self, node: int, parent: int) -> None:
        self.now += 1
        if self.in_lru.holds(node):
            self.missing -= 1
        if self.count[node] == 0 and parent >= 0:
            self.origin[node] = self.origin[parent] if self.count[parent] == 1 else self.bucket(self.count[parent])
        self.use(node)
        self.gone[node] = False

    def hit(self, node: int) -> None:
        self.won += 1
        self.use(node)

    def released(self, node: int) -> None:
        if self.left[node] >= 0:
            self.waiting[self.kind[node], self.place(self.left[node])] -= 1
        self.left[node] = self.now
        self.kind[node] = self.bucket(self.count[node])
        if self.origins:
            self.kind[node] += USES * self.origin[node]
        self.waiting[self.kind[node], self.place(self.now)] += 1
        if self.in_lru.holds(node):
            self.in_lru.remove(node)
        self.in_lru.append(node)
        while self.in_lru.size > self.blocks:
            oldest = self.in_lru.first()
            self.in_lru.remove(oldest)
            if self.gone[oldest]:
                self.missing -= 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.kind[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        leaves = index.leaves
        risk = self.missing * (self.lru_hits + 1) / (self.used + 1)
        free = risk < self.slack * self.asked + min(self.won, self.blocks)
        best, lowest, oldest, limit = -1, 0.0, -1, 0.0
        for queue in range(self.queues):
            block = leaves.first(queue)
            if block < 0:
                continue
            worth = self.worth_of(index, block, queue)
            if oldest < 0 or leaves.key[block] < leaves.key[oldest]:
                oldest, limit = block, (1 - self.margin) * worth
            if best < 0 or worth < lowest or (worth == lowest and leaves.key[block] < leaves.key[best]):
                best, lowest = block, worth
            if self.ends:
                block = index.back.first(queue)
                worth = self.worth_of(index, block, queue)
                if worth < lowest:
                    best, lowest = block, worth
        return best if free and lowest < limit else oldest

    def worth_of(self, index: PrefixIndex, block: int, queue: int) -> float:
        return self.worth[queue, self.bin(self.time - self.left[index.node[block]])]

    def dropped(self, node: int) -> None:
        if self.in_lru.holds(node):  # LRU would have lost it too
            self.in_lru.remove(node)

    def evicted(self, node: int) -> None:
        self.gone[node] = True
        if self.in_lru.holds(node):
            self.missing += 1

    def forgotten(self, node: int) -> None:
        if self.left[node] >= 0:
            self.stop(node, self.lost)
        if self.in_lru.holds(node):
            self.in_lru.remove(node)
            if self.gone[node]:
                self.missing -= 1
        self.count[node] = 0
        self.origin[node] = 0
        self.gone[node] = False

    def refresh(self) -> None:
        """Makes the table of worth from what was observed; in loops, as array expressions take long to compile."""
        lost = np.zeros((self.queues, AGES))
        places = self.waiting.shape[1]
        for queue in range(self.queues):
            for age in range(AGES):
                lost[queue, age] = self.lost[queue, age]
                self.worth[queue, age] = 0.0
        for back in range(places):
            began = self.now // self.refresh_blocks - back
            # In the middle of the place, as far as is known here.
            age = self.bin(max(self.now - began * self.refresh_blocks - self.refresh_blocks // 2, 0))
            for queue in range(self.queues):
                lost[queue, age] += self.waiting[queue, began % places]
        all_reused, all_lost = self.total(self.reused, 0, 1), self.total(lost, 0, 1)
        ages = AGES
        while ages and all_reused[ages - 1] + all_lost[ages - 1] == 0:
            ages -= 1
        of_all = self.chances(all_reused, all_lost, np.zeros(ages), 0.0)
        for uses in range(USES):
            reused, others = self.total(self.reused, uses, USES), self.total(lost, uses, USES)
            of_uses = self.chances(reused, others, of_all, self.prior)
            for queue in range(uses, self.queues, USES):
                self.write_worth(queue, self.chances(self.reused[queue], lost[queue], of_uses, self.prior))
        for queue in range(self.queues):
            for age in range(AGES):
                self.reused[queue, age] *= self.keep
                self.lost[queue, age] *= self.keep

    def total(self, table: np.ndarray, first: int, step: int) -> np.ndarray:
        """The sum of every step-th row of [queues, AGES], from the first one; [AGES]."""
        sums = np.zeros(AGES)
        for queue in range(first, self.queues, step):
            for age in range(AGES):
                sums[age] += table[queue, age]
        return sums

    def chances(self, reused: np.ndarray, lost: np.ndarray, wider: np.ndarray, prior: float) -> np.ndarray:
        """The chance of a use in each age bin, for who comes to it; [ages].

        Args:
            reused: waits that ended in a bin with a use; [AGES].
            lost: waits that were seen until there; [AGES].
            wider: the chance in a wider class, which counts for `prior` nodes; [ages].
            prior: see wider.
        """
        chance = np.zeros(wider.size)
        at_risk = 0.0
        for age in range(wider.size - 1, -1, -1):
            at_risk += reused[age] + lost[age]
            # Those lost in a bin were there for half of it.
            seen = max(at_risk - lost[age] / 2, reused[age])
            chance[age] = (reused[age] + prior * wider[age]) / max(seen + prior, 1e-9)
        return chance

    def write_worth(self, queue: int, chance: np.ndarray) -> None:
        """Writes a class's worth at each age; chance: see chances.

        From the last bin to the first: a bin takes in the stretch behind it as long as that is worth more than itself.
        """
        used, space, alive = np.zeros(AGES), np.zeros(AGES), np.zeros(AGES)
        size = 0
        for age in range(chance.size - 1, -1, -1):
            width = 1.0 if age < 2 else 2.0 ** (age // 2 - 1)
            u, r, a = chance[age], width * (1 - chance[age] / 2), 1 - chance[age]
            while size and u * space[size - 1] < used[size - 1] * r:
                size -= 1
                u, r, a = u + a * used[size], r + a * space[size], a * alive[size]
            used[size], space[size], alive[size] = u, r, a
            size += 1
            self.worth[queue, age] = u / r
