"""Hazard classes behind a guard: what is least worth its room goes, as long as that can cost little against LRU.

Classes. A node's class says how often requests used it, and how often the chain that it continues had been used when it
was computed: a later turn of a chat differs in that from a call that never comes again. Each class is an LRU queue. The
chance of a use in the next interval of age is estimated for each class, as in survival analysis: evicted nodes stay
known as ghosts, so that what eviction hides is seen too. A block's worth is its Gittins index: the highest ratio, over
all times to give it up, of the chance of a use until then to the room (blocks times time) that it takes until then. Of
the heads of the queues the one with the lowest worth goes. Time counts computed blocks.

Guard. A list of nodes is kept as LRU would hold them, and the hits that LRU would have had are counted. What LRU holds
and this cache does not may cost a hit each, with about the chance at which LRU's blocks are hit. The classes decide
only while that risk stays below what was won over LRU, up to the cache's size, and `slack` of all blocks asked for.
Else the block that was used the longest time ago goes, which LRU does not hold any more, and the cache becomes LRU's.
Nothing here proves a bound: the risk is an estimate, and a batch's unfinished requests and partial blocks are not in
the list.

Sources: Gittins, "Bandit processes and dynamic allocation indices", 1979; Beckmann, Chen, Cidon, "LHD: improving cache
hit rate by maximizing hit density", NSDI 2018 (hits over time and room, by class and age); Kaplan, Meier,
"Nonparametric estimation from incomplete observations", 1958. Not as there: leaves only, classes of chains, the guard.
"""

import numpy as np

from vllm_sim.eviction.book import Book
from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.order import Order
from vllm_sim.eviction.policy import Policy, Room

USES = 5
"""Classes of use counts: 1, 2, 3 to 4, 5 to 16, more."""
AGES = 48
"""Bins of age, each twice as long as the one before it."""


@compiled
class Hybrid(Policy):
    """O(classes) for a victim, O(1) for all else but a refresh of the table once every so many computed blocks.

    Args:
        room: see Policy.
        ghosts: evicted nodes that stay known, as a multiple of the blocks.
        slack: share of the blocks asked for, generated ones included, that may be at risk against LRU.
        prior: blocks that the estimate of a wider class counts for in a narrower one.
        memory: computed blocks, as a multiple of the blocks, after which an observation counts half.
        origins: 1: classes look at the chain that a node continues; 0: at its use count alone.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        room: Room,
        ghosts: float = 4.0,
        slack: float = 0.002,
        prior: float = 50.0,
        memory: float = 16.0,
        origins: int = 1,
    ):
        super().__init__(room)
        for name, value, low in (
            ("ghosts", ghosts, 0),
            ("slack", slack, 0),
            ("prior", prior, 0),
            ("memory", memory, 0.01),
        ):
            if value < low:
                raise ValueError(f"{name} is {value}; allowed: {low} or more")
        if origins not in (0, 1):
            raise ValueError(f"origins is {origins}; allowed: 0, 1")
        self.ghosts = int(ghosts * room.blocks)
        self.blocks = room.blocks
        self.slack = slack
        self.prior = prior
        self.origins = origins
        self.queues = USES * USES if origins else USES
        self.refresh_blocks = max(64, room.blocks // 8)
        self.keep = 0.5 ** (self.refresh_blocks / (memory * room.blocks))
        # Time: now counts on, time is what it was when the present request began.
        self.now = 0
        self.time = 0
        self.refreshed = 0
        self.count = np.zeros(room.nodes, np.int32)
        self.origin = np.zeros(room.nodes, np.int8)
        self.kind = np.zeros(room.nodes, np.int8)
        self.left = np.full(room.nodes, -1, np.int64)
        # When a ghost was evicted, -1 for no ghost.
        self.gone = np.full(room.nodes, -1, np.int64)
        # Observations by class and age: of a node from the bin where it came into view to the bin where it was used
        # again, or left the view.
        self.entered = np.zeros((self.queues, AGES))
        self.reused = np.zeros((self.queues, AGES))
        self.lost = np.zeros((self.queues, AGES))
        self.worth = np.zeros((self.queues, AGES))
        self.in_lru = Order(room.nodes)
        # Nodes that LRU holds and this cache does not; hits here and hits of LRU.
        self.missing = 0
        self.lru_hits = 0
        self.asked = 0
        self.won = 0

    def bucket(self, count: int) -> int:
        if count <= 2:
            return max(count, 1) - 1
        return 2 if count <= 4 else 3 if count <= 16 else 4

    def bin(self, age: int) -> int:
        place = 0
        while age > 0:
            age >>= 1
            place += 1
        return min(place, AGES - 1)

    def started(self, request: int) -> None:
        self.time = self.now
        if self.now - self.refreshed >= self.refresh_blocks:
            self.refreshed = self.now
            self.refresh()

    def observe(self, node: int, is_reuse: bool) -> None:
        """A node's view ends: used again, evicted (a new view begins there) or forgotten."""
        kind, left, gone = self.kind[node], self.left[node], self.gone[node]
        age = self.bin(self.time - left)
        self.entered[kind, self.bin(gone - left) if gone >= 0 else 0] += 1
        if is_reuse:
            self.reused[kind, age] += 1
        else:
            self.lost[kind, age] += 1

    def use(self, node: int) -> None:
        self.asked += 1
        if self.left[node] >= 0:
            self.observe(node, True)
            self.left[node] = -1
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
        self.gone[node] = -1

    def hit(self, node: int) -> None:
        self.won += 1
        self.use(node)

    def released(self, node: int) -> None:
        self.left[node] = self.now
        self.kind[node] = self.bucket(self.count[node])
        if self.origins:
            self.kind[node] += USES * self.origin[node]
        if self.in_lru.holds(node):
            self.in_lru.remove(node)
        self.in_lru.append(node)
        while self.in_lru.size > self.blocks:
            oldest = self.in_lru.first()
            self.in_lru.remove(oldest)
            if self.gone[oldest] >= 0:
                self.missing -= 1

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.kind[node], stamp

    def victim(self, book: Book) -> int:
        leaves = book.leaves
        risk = self.missing * (self.lru_hits + 1) / (self.asked + 1)
        free = risk < self.slack * self.asked + min(self.won, self.blocks)
        best, lowest = -1, 0.0
        for queue in range(self.queues):
            block = leaves.first(queue)
            if block < 0:
                continue
            worth = 0.0
            if free:
                worth = self.worth[queue, self.bin(self.time - self.left[book.node[block]])]
            if best < 0 or worth < lowest or (worth == lowest and leaves.key[block] < leaves.key[best]):
                best, lowest = block, worth
        return best

    def evicted(self, node: int) -> None:
        if self.left[node] >= 0:
            self.observe(node, False)
        self.gone[node] = self.time
        if self.in_lru.holds(node):
            self.missing += 1

    def forgotten(self, node: int) -> None:
        if self.gone[node] >= 0 and self.left[node] >= 0:
            self.observe(node, False)
        if self.in_lru.holds(node):
            self.in_lru.remove(node)
            if self.gone[node] >= 0:
                self.missing -= 1
        self.count[node] = 0
        self.origin[node] = 0
        self.left[node] = -1
        self.gone[node] = -1

    def refresh(self) -> None:
        """Makes the table of worth from what was observed: of all nodes, of a use count, and of a class, the wider
        estimate standing in where the narrower one has seen little."""
        chance = np.zeros((USES + 1, AGES))
        self.estimate(chance, USES, 1, 0, 0.0)
        for uses in range(USES):
            self.estimate(chance, uses, USES, uses, self.prior)
        own = np.zeros((USES + 1, AGES))
        for queue in range(self.queues):
            own[:, :] = chance
            own[USES, :] = chance[queue % USES, :]
            self.estimate(own, 0, self.queues, queue, self.prior)
            self.index(queue, own[0, :])
        self.entered[:, :] *= self.keep
        self.reused[:, :] *= self.keep
        self.lost[:, :] *= self.keep

    def estimate(self, chance: np.ndarray, row: int, step: int, first: int, prior: float) -> None:
        """Writes the chance of a use in each age bin, for who comes to it, into a row of `chance`.

        The classes first, first + step ... are taken together; the last row of `chance` counts for `prior` blocks.
        """
        at_risk = 0.0
        for age in range(AGES):
            reused, lost = 0.0, 0.0
            for queue in range(first, self.queues, step):
                at_risk += self.entered[queue, age]
                reused += self.reused[queue, age]
                lost += self.lost[queue, age]
            # Those lost in a bin were there for half of it.
            seen = max(at_risk - lost / 2, reused)
            chance[row, age] = (reused + prior * chance[USES, age]) / max(seen + prior, 1e-9)
            at_risk -= reused + lost

    def index(self, queue: int, chance: np.ndarray) -> None:
        """A class's worth at each age; chance: of a use in an age bin for who comes to it."""
        for begin in range(AGES):
            alive, used, room, best = 1.0, 0.0, 0.0, 0.0
            for age in range(begin, AGES):
                width = 1.0 if age == 0 else 2.0 ** (age - 1)
                used += alive * chance[age]
                room += alive * width * (1 - chance[age] / 2)
                alive *= 1 - chance[age]
                best = max(best, used / room)
            self.worth[queue, begin] = best
