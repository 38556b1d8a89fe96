"""The book of cached blocks: copies of a node, parents and children, leaves, ghosts; the same for every policy.

Faithful to vLLM 0.32 (v1/core/block_pool.py, read): a full block is cached under a hash that its whole prefix goes
into; the same hash can be in several blocks, and a lookup finds the one that was cached first; a block in use is not
evicted; blocks without a hash are taken before any cached one (here they are the caller's: the book never sees them).
Not vLLM's: the order of eviction, which is the policy's, and that only leaves are offered.

Whoever drives the book (the kernel, or vLLM's pool) says what happens; the book tells the policy.
"""

from typing import Any

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.leaves import Leaves
from vllm_sim.eviction.order import Order

# Places in Book.counts.
EVICTED, ORPHANS, ORPHANS_NOW, FORGOTTEN, LAST = range(5)


@compiled
class Book:
    """Cached blocks and their nodes; -1 stands for none.

    Attributes:
        node: the node cached in a block; [blocks].
        first: the block of a node that was cached first; [nodes].
        counts: evicted blocks; most orphans at any time; orphans now; nodes forgotten since the caller looked;
            the node evicted last.
        forgotten: those nodes (kept where numbers are used again); [nodes] or [0].
    """

    def __init__(self, blocks: int, nodes: int, queues: int, ghosts: int, recycle: bool):
        self.node = np.full(blocks, -1, np.int32)
        self.free = np.zeros(blocks, np.bool_)
        self.stamp = np.zeros(blocks, np.int64)
        self.newer = np.full(blocks, -1, np.int32)
        self.older = np.full(blocks, -1, np.int32)
        self.first = np.full(nodes, -1, np.int32)
        self.last = np.full(nodes, -1, np.int32)
        self.copies = np.zeros(nodes, np.int32)
        self.children = np.zeros(nodes, np.int32)
        self.parent = np.full(nodes, -1, np.int32)
        self.leaves = Leaves(blocks, queues)
        self.ghost = Order(nodes if ghosts else 0)
        self.ghosts = ghosts
        self.clock = 0
        self.counts = np.zeros(5, np.int64)
        self.forgotten = np.zeros(nodes if recycle else 0, np.int32)

    def enter(self, policy: Any, block: int) -> None:
        node = self.node[block]
        queue, key = policy.rank(node, self.copies[node], self.stamp[block])
        self.leaves.push(block, queue, key, self.stamp[block])

    def rerank(self, policy: Any, node: int) -> None:
        """Offers the free blocks of a node anew: its rank, its children or its copies have changed."""
        leaf = self.children[node] == 0 or self.copies[node] > 1
        block = self.first[node]
        while block >= 0:
            if self.leaves.queue[block] >= 0:
                self.leaves.remove(block)
            if leaf and self.free[block]:
                self.enter(policy, block)
            block = self.newer[block]

    def cache(self, policy: Any, block: int, node: int, parent: int, again: bool) -> None:
        """A block in use is cached; again: for a preempted request that returns, so that a copy is no new use."""
        self.node[block] = node
        self.free[block] = False
        self.copies[node] += 1
        last = self.last[node]
        self.last[node] = block
        self.older[block] = last
        if last >= 0:
            self.newer[last] = block
            if not again:
                policy.hit(node)
            if self.copies[node] == 2:
                self.rerank(policy, node)
            return
        self.first[node] = block
        self.parent[node] = parent
        if self.children[node]:
            # Orphans that find their parent again.
            self.count_orphans(-self.children[node])
        if parent >= 0:
            self.children[parent] += 1
            if self.first[parent] < 0:
                self.count_orphans(1)
        policy.cached(node, parent)
        if self.ghosts and self.ghost.holds(node):
            self.ghost.remove(node)

    def touch(self, policy: Any, block: int, again: bool) -> None:
        """A cached block is used by a request; again: by a preempted one that returns, which is no new use."""
        self.free[block] = False
        if self.leaves.queue[block] >= 0:
            self.leaves.remove(block)
        if not again:
            policy.hit(self.node[block])

    def release(self, policy: Any, block: int) -> None:
        """Nobody uses a cached block any more; of a chain the tail comes first."""
        self.clock += 1
        self.stamp[block] = self.clock
        self.free[block] = True
        node = self.node[block]
        policy.released(node)
        if self.children[node] == 0 or self.copies[node] > 1:
            self.enter(policy, block)

    def settle(self, policy: Any) -> None:
        """Ends a release: forgets the oldest ghosts above the limit. Not sooner, or chunks would make a difference."""
        while self.ghosts and self.ghost.size > self.ghosts:
            node = self.ghost.first()
            self.ghost.remove(node)
            self.forget(policy, node)

    def forget(self, policy: Any, node: int) -> None:
        """Forgets a node that is not cached, unless it is a ghost or the parent of a cached node."""
        if self.children[node] or (self.ghosts and self.ghost.holds(node)):
            return
        policy.forgotten(node)
        if self.forgotten.size:
            self.forgotten[self.counts[FORGOTTEN]] = node
            self.counts[FORGOTTEN] += 1

    def evict(self, policy: Any) -> int:
        """Takes the block that the policy names; there must be a leaf.

        Raises:
            ValueError: the policy named a block that is not offered.
        """
        block = policy.victim(self)
        if block < 0 or self.leaves.queue[block] < 0:
            raise ValueError("victim() must return a block that book.leaves holds")
        self.counts[EVICTED] += 1
        self.counts[LAST] = self.node[block]
        self.drop(policy, block)
        return block

    def drop(self, policy: Any, block: int) -> None:
        """A block loses its hash, evicted or not."""
        node = self.node[block]
        self.node[block] = -1
        if self.leaves.queue[block] >= 0:
            self.leaves.remove(block)
        if self.copies[node] == 1:
            self.first[node] = -1
            self.last[node] = -1
            self.copies[node] = 0
            self.uncache(policy, node)
            return
        older, newer = self.older[block], self.newer[block]
        self.older[block] = -1
        self.newer[block] = -1
        if older >= 0:
            self.newer[older] = newer
        else:
            self.first[node] = newer
        if newer >= 0:
            self.older[newer] = older
        else:
            self.last[node] = older
        self.copies[node] -= 1
        if self.copies[node] == 1:
            self.rerank(policy, node)

    def uncache(self, policy: Any, node: int) -> None:
        """A node lost its last block."""
        policy.evicted(node)
        parent = self.parent[node]
        if parent >= 0:
            self.children[parent] -= 1
            if self.first[parent] < 0:
                self.count_orphans(-1)
                self.forget(policy, parent)
            elif self.children[parent] == 0 and self.copies[parent] == 1:
                block = self.first[parent]
                if self.free[block]:
                    self.enter(policy, block)
        if self.children[node]:
            self.count_orphans(self.children[node])
        if self.ghosts:
            self.ghost.append(node)
        else:
            self.forget(policy, node)

    def count_orphans(self, change: int) -> None:
        self.counts[ORPHANS_NOW] += change
        self.counts[ORPHANS] = max(self.counts[ORPHANS], self.counts[ORPHANS_NOW])
