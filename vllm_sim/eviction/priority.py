"""The simplest way to write a policy: one method that gives a block's priority. The lowest priority goes first.

    class FewestUses(PriorityPolicy):
        def priority(self, block):
            return block.uses

A priority is computed when a block can be evicted from now on: its request has released it and it is a leaf. It stays
until the block is used again. Ties go to the block that was released first, so that a chain loses its tail first.
A policy whose priorities change with time, or that knows ghosts, is a `Policy` (policy.py).
"""

from typing import NamedTuple

import numpy as np

from vllm_sim.eviction.policy import Policy, PolicyContext

_BITS = 0x7FFF_FFFF_FFFF_FFFF


class BlockUse(NamedTuple):
    """What a priority is made from."""

    last_use: int
    """When the block was released, counted in releases of blocks."""
    uses: int
    """Requests that used the block since it was cached, the one that computed it among them."""
    depth: int
    """Blocks before it in its prompt."""
    category: int
    """Workload and turn of the request that used it last, as a small number in the order of first appearance; 0 in a
    live server."""


class PriorityPolicy(Policy):
    """One queue, in the order of `priority`."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.present = 0
        self.uses = np.zeros(context.nodes, np.int64)
        self.depth = np.zeros(context.nodes, np.int64)
        self.category = np.zeros(context.nodes, np.int64)

    def priority(self, block: BlockUse) -> float:
        """The priority of a block that can be evicted: the lowest goes first.

        Args:
            block: its uses, depth and more; see BlockUse.

        Returns:
            A whole number or a fraction. NaN is an error of the run.
        """
        return 0.0

    def serving(self, category: int) -> None:
        self.present = category

    def cached(self, node: int, parent: int) -> None:
        self.uses[node] = 1
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0
        self.category[node] = self.present

    def hit(self, node: int) -> None:
        self.uses[node] += 1
        self.category[node] = self.present

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        value = np.float64(self.priority(BlockUse(stamp, self.uses[node], self.depth[node], self.category[node]))) + 0.0
        if value != value:
            raise ValueError("priority() must return a number, not NaN")
        # The bits of a fraction, read as a whole number, are in the order of the fractions, the negative ones reversed.
        bits = value.view(np.int64)
        return 0, int(bits if bits >= 0 else bits ^ _BITS)
