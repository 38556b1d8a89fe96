"""The index of cached blocks: copies of a node, parents and children, leaves, ghosts; the same for every policy.

Faithful to vLLM 0.32 (v1/core/block_pool.py, read): a full block is cached under a hash that its whole prefix goes
into; the same hash can be in several blocks, and a lookup finds the one that was cached first; a block in use is not
evicted; blocks without a hash are taken before any cached one (here they are the caller's: the index never sees them).
Not vLLM's: the order of eviction, which is the policy's, and that only leaves are offered.

What drives the index (the kernel, or vLLM's pool) calls it for all that happens; the index calls the policy.
"""

from typing import Any

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.linked_list import LinkedList
from vllm_sim.eviction.pairing_heaps import NoHeaps, PairingHeaps

# Places in PrefixIndex.counts.
EVICTED, ORPHANS, ORPHANS_NOW, FORGOTTEN = range(4)


@compiled
class PrefixIndex:
    """Cached blocks and their nodes; -1 stands for none.

    Attributes:
        node: the node cached in a block; [blocks].
        stamp: when a block was released, 0 while it is in use or not cached; [blocks].
        first: the block of a node that was cached first. Below 0 it is not cached: -1 if it never was, -2 - r if it was
            evicted while `request` was r. Where numbers are used again, -2 - n if n was the last node to be forgotten
            before it; [nodes].
        counts: evicted blocks; most orphans at any time; orphans now; where numbers are used again, the last node that
            was forgotten since the caller looked, -1 for none.
        leaves: the blocks that may be evicted, in the policy's queues.
        back: the same blocks, a queue's last one first; of a policy that looks at `both_ends`.
        line: under a policy that is `in_order`, instead, all blocks that no request uses: the one released first is
            a leaf, as a child is released before its parent.

    Args:
        blocks: blocks there are.
        nodes: node numbers are below this.
        policy: ranks the leaves.
        recycle: numbers of forgotten nodes are used again.
    """

    def __init__(self, blocks: int, nodes: int, policy: Any, recycle: bool):
        self.node = np.full(blocks, -1, np.int32)
        self.stamp = np.zeros(blocks, np.int64)
        self.first = np.full(nodes, -1, np.int32)
        self.children = np.zeros(nodes, np.int32)
        # The parent of the node in a block.
        self.parent = np.zeros(blocks, np.int32)
        # Of the blocks of a node: their list; at the first, how many come after it, and the last of them.
        self.extra = np.zeros(blocks, np.int32)
        self.last = np.zeros(blocks, np.int32)
        self.newer = np.full(blocks, -1, np.int32)
        self.older = np.full(blocks, -1, np.int32)
        none = NoHeaps(policy.queues)
        self.leaves = none if policy.in_order else PairingHeaps(blocks, policy.queues, self.stamp)
        self.back = PairingHeaps(blocks, policy.queues, self.stamp, self.leaves.key, -1) if policy.both_ends else none
        self.both_ends = policy.both_ends
        self.line = LinkedList(blocks if policy.in_order else 0)
        self.in_order = policy.in_order
        self.ghost = LinkedList(nodes if policy.ghosts else 0)
        self.ghosts = policy.ghosts
        self.clock = 0
        self.request = 0
        self.counts = np.array([0, 0, 0, -1])
        self.recycle = recycle

    def enter(self, policy: Any, block: int) -> None:
        """Offers a block, in the queue and under the key that the policy gives.

        Raises:
            ValueError: there is no such queue, or the key is no whole number.
        """
        node = self.node[block]
        copies = 1 + self.extra[self.first[node]] if self.is_copied(block) else 1
        queue, key = policy.rank(node, copies, self.stamp[block])
        if not 0 <= queue < self.leaves.root.size:
            raise ValueError("rank() must return a queue below policy.queues")
        if key != int(key):
            raise ValueError("rank() must return a key that is a whole number")
        self.leaves.push(block, queue, key)
        if self.both_ends:
            self.back.push(block, queue, key)

    def offers(self, block: int) -> bool:
        """Whether a block may be evicted."""
        return self.line.holds(block) if self.in_order else self.leaves.queue[block] >= 0

    def withdraw(self, block: int) -> None:
        """Offers a block no longer, if it was offered."""
        if self.offers(block):
            if self.in_order:
                self.line.remove(block)
            else:
                self.leaves.remove(block)
                if self.both_ends:
                    self.back.remove(block)

    def is_copied(self, block: int) -> bool:
        """Whether the node of a block is in another one too."""
        return self.newer[block] >= 0 or self.older[block] >= 0

    def rerank(self, policy: Any, node: int) -> None:
        """Offers the free blocks of a node anew: its rank, its children or its copies have changed."""
        if self.in_order:
            return
        block = self.first[node]
        leaf = self.children[node] == 0 or self.is_copied(block)
        while block >= 0:
            self.withdraw(block)
            if leaf and self.stamp[block]:
                self.enter(policy, block)
            block = self.newer[block]

    def cache(self, policy: Any, block: int, node: int, parent: int, again: bool) -> None:
        """A block in use is cached; again: for a preempted request that returns, so that a copy is no new use."""
        self.node[block] = node
        self.stamp[block] = 0
        self.parent[block] = parent
        if self.first[node] >= 0:
            self.copy(policy, block, again)
            return
        self.first[node] = block
        if self.counts[ORPHANS_NOW] and self.children[node]:
            # Orphans that find their parent again.
            self.count_orphans(-self.children[node])
        if parent >= 0:
            self.children[parent] += 1
            if self.first[parent] < 0:
                self.count_orphans(1)
        policy.cached(node, parent)
        if self.ghosts and self.ghost.holds(node):
            self.ghost.remove(node)

    def copy(self, policy: Any, block: int, again: bool) -> None:
        """A node is cached in one block more."""
        node = self.node[block]
        first = self.first[node]
        last = self.last[first] if self.extra[first] else first
        self.last[first] = block
        self.extra[first] += 1
        self.older[block] = last
        self.newer[last] = block
        if not again:
            policy.hit(node)
        if self.extra[first] == 1:
            self.rerank(policy, node)

    def touch(self, policy: Any, block: int, again: bool) -> None:
        """A cached block is used by a request; again: by a preempted one that returns, which is no new use."""
        self.stamp[block] = 0
        self.withdraw(block)
        if not again:
            policy.hit(self.node[block])

    def release(self, policy: Any, block: int) -> None:
        """No request uses a cached block any more; of a chain the tail comes first."""
        self.clock += 1
        self.stamp[block] = self.clock
        node = self.node[block]
        policy.released(node)
        if self.in_order:
            self.line.append(block)
        elif self.children[node] == 0 or self.is_copied(block):
            self.enter(policy, block)

    def settle(self, policy: Any) -> None:
        """Ends a release: forgets the oldest ghosts above the limit. Not sooner, or chunks would make a difference."""
        while self.ghosts and self.ghost.size > self.ghosts:
            self.forget_ghost(policy)

    def forget_ghost(self, policy: Any) -> None:
        """Forgets the oldest ghost; there must be one."""
        node = self.ghost.first()
        self.ghost.remove(node)
        self.forget(policy, node)

    def forget(self, policy: Any, node: int) -> None:
        """Forgets a node that is not cached, unless it is a ghost or the parent of a cached node."""
        if self.children[node] or (self.ghosts and self.ghost.holds(node)):
            return
        policy.forgotten(node)
        if self.recycle:
            self.first[node] = -2 - self.counts[FORGOTTEN]
            self.counts[FORGOTTEN] = node

    def evict(self, policy: Any) -> int:
        """Takes the block that the policy names; there must be a leaf.

        Raises:
            ValueError: the policy named a block that is not offered.
        """
        block = policy.victim(self)
        if not 0 <= block < self.node.size or not self.offers(block):
            raise ValueError("victim() must return a block that index.leaves holds (index.line, where in_order is set)")
        self.counts[EVICTED] += 1
        self.drop(policy, block)
        return block

    def drop(self, policy: Any, block: int) -> None:
        """A block loses its hash, evicted or not."""
        node = self.node[block]
        self.node[block] = -1
        self.withdraw(block)
        if self.is_copied(block):
            self.drop_copy(policy, block, node)
        else:
            self.first[node] = -2 - self.request
            self.uncache(policy, node, self.parent[block])

    def drop_copy(self, policy: Any, block: int, node: int) -> None:
        """A node is cached in one block less, and in one at least."""
        older, newer = self.older[block], self.newer[block]
        self.older[block] = -1
        self.newer[block] = -1
        if older >= 0:
            self.newer[older] = newer
        else:
            self.first[node] = newer
            self.extra[newer], self.last[newer] = self.extra[block], self.last[block]
            self.extra[block] = 0
        first = self.first[node]
        if newer >= 0:
            self.older[newer] = older
        else:
            self.last[first] = older
        self.extra[first] -= 1
        if self.extra[first] == 0:
            self.rerank(policy, node)

    def uncache(self, policy: Any, node: int, parent: int) -> None:
        """A node lost its last block."""
        policy.evicted(node)
        if parent >= 0:
            self.children[parent] -= 1
            if self.counts[ORPHANS_NOW] and self.first[parent] < 0:
                self.count_orphans(-1)
                self.forget(policy, parent)
            elif not self.in_order and self.children[parent] == 0:
                block = self.first[parent]
                if self.stamp[block] and not self.is_copied(block):
                    self.enter(policy, block)
        if self.children[node]:
            self.count_orphans(self.children[node])
        if self.ghosts:
            self.ghost.append(node)
        else:
            self.forget(policy, node)

    def count_orphans(self, change: int) -> None:
        """There are so many orphans more."""
        self.counts[ORPHANS_NOW] += change
        self.counts[ORPHANS] = max(self.counts[ORPHANS], self.counts[ORPHANS_NOW])
