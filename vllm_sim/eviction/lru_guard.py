"""What LRU would hold and would have hit, and how much a policy may risk against it.

Let W be the hits of this cache less those of LRU; D the nodes that LRU holds and this cache does not; A the blocks of
prompts that could have been hit until the request starts. A victim that LRU still holds may be taken only while
W - D > -slack x A; each raises D by one. Else a node goes that LRU does not hold, or what was used longest ago.

A bound: hits are never more than slack x A below LRU's. Proof: look at P = W - D. A hit of both changes nothing. A hit
of this cache alone raises W. A hit of LRU alone is a use of a node in D, which it leaves: W and D fall by one each, and
P stays. A node of D that LRU evicts leaves D, and P rises. A victim that LRU does not hold changes nothing. The node
here that was used longest ago is such a one: LRU holds the nodes used last, as many as there are blocks, so that it can
be among them only if both caches are the same, and then LRU evicts it too. What is left is a victim that LRU holds: it
lowers P by one, and is taken only above -slack x A. So P never falls below that, nor does W, which is P + D.

W counts up to the cache's size, so that gains of long ago do not pay for much: where that cuts it off P is not below 0.

Fairness. The same count for each category of requests: its W counts uses of nodes that a request of it used last, its
D those among D, its A blocks of its requests. A victim of a category may be taken only while its W - D > -fair x its A.
By the same proof no group of categories that shares no node with another one, as the turns of a workload, loses more
than fair x its A.

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
        missing, won, hittable: D, W and A.
        allowance: victims that LRU holds and that may be taken in this request.
        missing_of, won_of, hittable_of, allowance_of: the same for each category; unused where `fair` is 1.
        owner: category of the request that used a node last; [nodes].

    Args:
        nodes: node numbers are below this.
        blocks: usable blocks.
        slack: see above.
        fair: see above; 1 for no bound, as nobody can lose more.
        categories: of requests.
    """

    def __init__(self, nodes: int, blocks: int, slack: float, fair: float = 1.0, categories: int = 1):
        self.blocks = blocks
        self.slack = slack
        self.fair = fair
        self.held = LinkedList(nodes)
        self.gone = np.zeros(nodes, np.bool_)
        self.missing = 0
        self.won = 0
        self.hittable = 0
        self.allowance = 0.0
        self.present = 0
        self.owner = np.zeros(nodes, np.int32)
        self.missing_of = np.zeros(categories, np.int64)
        self.won_of = np.zeros(categories, np.int64)
        self.hittable_of = np.zeros(categories, np.int64)
        self.allowance_of = np.zeros(categories)

    def start(self, hittable: int) -> None:
        """A request of the present category starts."""
        self.hittable += hittable
        self.won = min(self.won, self.blocks)
        self.allowance = self.slack * self.hittable + self.won - self.missing
        if self.fair < 1:
            self.hittable_of[self.present] += hittable
            for i in range(self.won_of.size):
                self.won_of[i] = min(self.won_of[i], self.blocks)
                self.allowance_of[i] = self.fair * self.hittable_of[i] + self.won_of[i] - self.missing_of[i]

    def risks(self, node: int) -> bool:
        """Whether the eviction of a node may cost a hit that LRU has."""
        return self.held.holds(node)

    def allows(self, node: int) -> bool:
        """Whether a node may be evicted that was not used the longest time ago; counts the risk if so."""
        if not self.risks(node):
            return True
        owner = self.owner[node]
        if self.allowance < 1 or (self.fair < 1 and self.allowance_of[owner] < 1):
            return False
        self.allowance -= 1
        self.allowance_of[owner] -= 1
        return True

    def cached(self, node: int) -> None:
        if self.held.holds(node):
            self.miss(node, -1)
        self.gone[node] = False
        self.use(node)

    def hit(self, node: int) -> None:
        self.win(node, 1)
        self.use(node)

    def use(self, node: int) -> None:
        if self.held.holds(node):
            self.win(node, -1)
            self.held.remove(node)
        # In the order of use; released() puts it into the order of release.
        self.held.append(node)
        self.owner[node] = self.present

    def win(self, node: int, change: int) -> None:
        self.won += change
        self.won_of[self.owner[node]] += change

    def miss(self, node: int, change: int) -> None:
        self.missing += change
        self.missing_of[self.owner[node]] += change

    def released(self, node: int) -> None:
        if self.held.holds(node):
            self.held.remove(node)
        self.held.append(node)
        while self.held.size > self.blocks:
            oldest = self.held.first()
            self.held.remove(oldest)
            if self.gone[oldest]:
                self.miss(oldest, -1)

    def evicted(self, node: int) -> None:
        self.gone[node] = True
        if self.held.holds(node):
            self.miss(node, 1)

    def dropped(self, node: int) -> None:
        """A reset takes a node; LRU would lose it too."""
        if self.held.holds(node):
            self.held.remove(node)

    def forgotten(self, node: int) -> None:
        if self.held.holds(node):
            self.held.remove(node)
            if self.gone[node]:
                self.miss(node, -1)
        self.gone[node] = False
        self.owner[node] = 0
