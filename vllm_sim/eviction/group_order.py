"""Which idle cached block of several groups is taken next, compiled: as vLLM's queue has it, or as a policy says.

Two classes with the same methods, for group_kernel.py. `PolicyOrder` does what engine/group_pool.py does over vLLM's
own pool: each hash of each group is a node of the policy, blocks that no hit can use go first, and the policy hears of
a request at the first block that an allocation moves.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vllm_sim.block_rules import full_blocks, hittable_blocks
from vllm_sim.eviction.boundary_tree import ROOT, BoundaryTree, Keeps
from vllm_sim.eviction.chains import Array, Chains
from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.linked_list import LinkedList
from vllm_sim.eviction.policy import Policy, RequestFacts
from vllm_sim.eviction.prefix_index import EVICTED, PrefixIndex


@compiled
class ReleaseOrder:
    """The block that was released first."""

    def __init__(self, blocks: int):
        self.line = LinkedList(blocks)
        self.is_told = True

    def begin(self, row: int) -> None:
        """A request is served from now on."""

    def allocate(self, is_new: bool) -> None:
        """A request gets blocks and caches some; is_new: for the first time."""

    def tell(self, matched: int) -> None:
        """The allocation moves its first block; `matched` of them were found for it."""

    def use(self, block: int) -> None:
        """An idle cached block is used."""
        self.line.remove(block)

    def cache(self, block: int, nodes: Any, length: int, group: int) -> None:
        """A block in use is cached for a group.

        Args:
            block: its number.
            nodes: of the request, a unit each.
            length: of the prefix that the block ends; units.
            group: of the block.
        """

    def release(self, block: int) -> None:
        """A cached block is used no longer."""
        self.line.append(block)

    def settle(self) -> None:
        """All that are released together are."""

    def take(self) -> int:
        """The block to be used again, which is cached no longer; -1: there is none."""
        block = self.line.after[self.line.end]
        if block == self.line.end:
            return -1
        self.line.remove(block)
        return block


class Served(NamedTuple):
    """What a policy may hear of requests; arrays by row."""

    category: Array
    arrival_ms: Any
    hints: Any
    prompt_blocks: Array
    """Full blocks of a prompt, of the size that is hashed."""
    hittable: Array
    """Blocks of all groups that a request could hit in an unlimited cache."""


@compiled
class PolicyOrder:
    """Dead blocks, and then the policy's choice.

    Args:
        index: of as many nodes as there are keys (see group_kernel.Cache).
        policy: ranks the blocks.
        tree: of the prefixes; the number of one is 1 more than its last node.
        units: of a block of each group; [groups].
        is_chain: whether a group keeps everything, so that its nodes have parents; [groups].
        hash_units: of a prefix that is hashed.
        served: what the policy hears of requests.
    """

    def __init__(
        self,
        index: PrefixIndex,
        policy: Policy,
        tree: BoundaryTree,
        units: np.ndarray,
        is_chain: np.ndarray,
        hash_units: int,
        served: Served,
    ):
        self.index, self.policy, self.tree = index, policy, tree
        self.units, self.is_chain, self.hash_units = units, is_chain, hash_units
        self.category, self.arrival_ms, self.hints, self.prompt_blocks, self.hittable = served
        self.row = 0
        self.is_new = False
        self.is_told = True
        self.idle = 0

    def begin(self, row: int) -> None:
        self.row = row

    def allocate(self, is_new: bool) -> None:
        self.is_new = is_new
        self.is_told = False

    def tell(self, matched: int) -> None:
        self.is_told = True
        row, policy = self.row, self.policy
        policy.serving(self.category[row])
        end, next_turn, priority, retention = self.hints[row]
        prompt_blocks = self.prompt_blocks[row]
        policy.serves(RequestFacts(self.arrival_ms[row], prompt_blocks, matched, end, next_turn, priority, retention))
        if self.is_new:
            policy.started(row, self.hittable[row])

    def use(self, block: int) -> None:
        self.idle -= 1
        self.index.touch(self.policy, block, False)
        self.tree.touch(block)

    def cache(self, block: int, nodes: Any, length: int, group: int) -> None:
        tree, step, groups = self.tree, self.hash_units, self.units.size
        known = length
        while known and tree.parent[nodes[known - 1] + 1] < 0:
            known -= step
        parent = nodes[known - 1] + 1 if known else ROOT
        while known < length:
            known += step
            tree.attach(nodes[known - 1] + 1, parent)
            parent = nodes[known - 1] + 1
        tree.put(parent, group, block)
        before = (length - 1) // self.units[group] * self.units[group]
        above = nodes[before - 1] * groups + group if self.is_chain[group] and before else -1
        self.index.cache(self.policy, block, nodes[length - 1] * groups + group, above, False)

    def release(self, block: int) -> None:
        self.idle += 1
        self.index.release(self.policy, block)
        self.tree.release(block)

    def settle(self) -> None:
        self.index.settle(self.policy)

    def take(self) -> int:
        if not self.idle:
            return -1
        self.idle -= 1
        index, block = self.index, self.tree.first_dead()
        if block < 0:
            block = self.policy.victim(index)
            if not 0 <= block < index.node.size or not index.offers(block):
                raise ValueError("victim() must return a block that index.leaves holds")
        index.counts[EVICTED] += 1
        index.drop(self.policy, block)
        self.tree.remove(block)
        return block


def policy_order(
    policy: Policy, chains: Chains, prompt_tokens: Array, keeps: Sequence[Keeps], alignment: int, hash_units: int,
    unit_tokens: int, blocks: int,
) -> PolicyOrder:  # fmt: skip
    """The order under a policy, of an empty cache.

    Args:
        policy: made for as many nodes as there are keys.
        chains: the requests, in units.
        prompt_tokens: of the requests.
        keeps: what each group needs of a prefix, in prefixes that are hashed.
        alignment: such prefixes of which every hit is a multiple.
        hash_units: units of one.
        unit_tokens: tokens of a unit.
        blocks: of the cache.
    """
    groups, tokens = len(keeps), hash_units * unit_tokens
    index = PrefixIndex(blocks, chains.working_set * groups, policy, recycle=False)
    tree = BoundaryTree(keeps, alignment, chains.working_set + 1, blocks, places=blocks, recycle=False)
    most = hittable_blocks(prompt_tokens, tokens)
    hittable = sum(
        (np.minimum(most // one.block_units, one.last_blocks or most) for one in keeps), start=np.zeros_like(most)
    )
    served = Served(chains.category, chains.arrival_ms, chains.hints, full_blocks(prompt_tokens, tokens), hittable)
    units = np.array([one.block_units * hash_units for one in keeps])
    return PolicyOrder(
        index, policy, tree, units, np.array([one.last_blocks is None for one in keeps]), hash_units, served
    )
