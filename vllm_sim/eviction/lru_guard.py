"""What LRU would hold and would have hit, and how much a policy may risk against it.

Let W be the hits of this cache less those of LRU, at most as many as there are blocks; D the nodes that LRU holds and
this cache does not; A the blocks of prompts that could have been hit; p the share of uses that LRU hits; all until the
request starts. Each node in D may cost a hit, with a chance of about p. A victim that LRU still holds may be taken only
while D x p < slack x A + W, and each raises D by one. Else what was used the longest time ago goes.

A bound: hits are never more than slack x A + the cache's size below LRU's. Proof: as long as victims are taken freely W
is above D x p - slack x A, so above -slack x A. When they are not, D does not grow: LRU holds the nodes used last, as
many as there are blocks, so that the node here that was used the longest time ago is not among them, or else both
caches are the same and LRU evicts it too. Each hit that LRU has and this cache has not is a use of a node in D, which
it leaves; so no more than D, which is at most the cache's size, can be lost from there on. What p is good for is that
as a rule far less is.

What the proof assumes: one request at a time, each node in one block, no partial blocks, and as many ghosts as blocks.
A batch, copies and tails of prompts are not in the list. The risk is counted when a request starts and for each
eviction since: its own chunks must not change it. A reset of the prefix cache takes nodes from LRU's list too.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.linked_list import LinkedList


@compiled
class LruGuard:
    """A list of nodes as LRU would hold them; numbers are of nodes.

    Attributes:
        missing: D.
        won: W.
        hittable: A.
        lru_hits: hits of LRU.
        used: uses, found or not.
        allowance: victims that LRU holds and that may be taken in this request.

    Args:
        nodes: node numbers are below this.
        blocks: usable blocks.
        slack: see above.
    """

    def __init__(self, nodes: int, blocks: int, slack: float):
        self.blocks = blocks
        self.slack = slack
        self.held = LinkedList(nodes)
        self.gone = np.zeros(nodes, np.bool_)
        self.missing = 0
        self.won = 0
        self.hittable = 0
        self.lru_hits = 0
        self.used = 0
        self.allowance = 0.0

    def start(self, hittable: int) -> None:
        """A request starts."""
        self.hittable += hittable
        self.won = min(self.won, self.blocks)
        chance = (self.lru_hits + 1) / (self.used + 1)
        self.allowance = (self.slack * self.hittable + self.won) / chance - self.missing

    def allows(self, node: int) -> bool:
        """Whether a node may be evicted that was not used the longest time ago; counts the risk if so."""
        if not self.held.holds(node):
            return True
        if self.allowance <= 0:
            return False
        self.allowance -= 1
        return True

    def cached(self, node: int) -> None:
        if self.held.holds(node):
            self.missing -= 1
        self.gone[node] = False
        self.use(node)

    def hit(self, node: int) -> None:
        self.won += 1
        self.use(node)

    def use(self, node: int) -> None:
        self.used += 1
        if self.held.holds(node):
            self.won -= 1
            self.lru_hits += 1
            self.held.remove(node)
        # In the order of use; released() puts it into the order of release.
        self.held.append(node)

    def released(self, node: int) -> None:
        if self.held.holds(node):
            self.held.remove(node)
        self.held.append(node)
        while self.held.size > self.blocks:
            oldest = self.held.first()
            self.held.remove(oldest)
            if self.gone[oldest]:
                self.missing -= 1

    def evicted(self, node: int) -> None:
        self.gone[node] = True
        if self.held.holds(node):
            self.missing += 1

    def dropped(self, node: int) -> None:
        """A reset takes a node; LRU would lose it too."""
        if self.held.holds(node):
            self.held.remove(node)

    def forgotten(self, node: int) -> None:
        if self.held.holds(node):
            self.held.remove(node)
            if self.gone[node]:
                self.missing -= 1
        self.gone[node] = False
