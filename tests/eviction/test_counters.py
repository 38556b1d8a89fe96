"""What the policies count, recounted from the outside after random requests."""

from typing import Any

import numpy as np
import pytest

from tests.eviction.test_policies import random_requests
from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.policies import arc, s3fifo, slru
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import make_context

CAPACITY = 12


def served(policy: str, chains: Chains, capacity: int = CAPACITY) -> tuple[Any, PrefixIndex]:
    """The policy and the index after all requests, in plain Python."""
    ranker: Any = make_policy(policy, make_context(chains, policy, capacity))
    index = PrefixIndex(capacity, chains.working_set, ranker, recycle=False)
    rows, out = np.arange(chains.need.size), np.zeros((chains.need.size, 6), np.int64)
    kernel.serve.py_func(index, ranker, chains, kernel.empty_slots(capacity), rows, out)
    return ranker, index


def single_blocks(blocks: str) -> Chains:
    """Requests of one raw block each, named by letters; nodes are numbered as they appear."""
    zeros = np.zeros(len(blocks), np.int64)
    ids = np.array([ord(block) for block in blocks], np.int64)
    return link(Requests(ids, np.arange(len(blocks) + 1), zeros + 1, zeros, zeros, zeros), 1, raw=True)


def test_lfu_counts_every_request_that_uses_a_node() -> None:
    policy, _ = served("lfu", single_blocks("abacabb"))
    assert policy.count.tolist() == [3, 3, 1]
    # b is evicted by c and begins anew.
    policy, _ = served("lfu", single_blocks("aabcab"), capacity=2)
    assert policy.count.tolist()[:2] == [3, 1]


class Hits(Policy):
    """Counts what it hears of."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.hits = 0

    def hit(self, node: int) -> None:
        self.hits += 1


@pytest.mark.parametrize(("again", "hits"), [(True, 0), (False, 2)])
def test_a_preempted_request_that_comes_back_is_no_new_use(again: bool, hits: int) -> None:
    policy = Hits(PolicyContext(4, 4))
    index = PrefixIndex(4, 4, policy, recycle=False)
    index.cache(policy, 0, 0, -1, again)
    index.touch(policy, 0, again)
    index.cache(policy, 1, 0, -1, again)
    assert policy.hits == hits


@pytest.mark.parametrize("seed", range(5))
def test_arc_counts_cached_nodes_and_ghosts_of_both_kinds(seed: int) -> None:
    policy, index = served("arc", link(random_requests(seed), 4))
    cached = index.first >= 0
    for kind in (arc.ONCE, arc.AGAIN):
        assert policy.cached_nodes[kind] == (cached & (policy.kind == kind)).sum() > 0
        assert policy.ghost_nodes[kind] == (policy.is_ghost & (policy.kind == kind)).sum()
    assert policy.ghost_nodes.sum() == index.ghost.size > 0
    assert not (policy.is_ghost & cached).any()
    assert 0 <= policy.target <= CAPACITY


@pytest.mark.parametrize("seed", range(5))
def test_slru_protects_no_more_nodes_than_its_share_once_it_evicts(seed: int) -> None:
    policy, index = served("slru", link(random_requests(seed), 4))
    cached = np.flatnonzero(index.first >= 0)
    protected = [node for node in cached if policy.segment[node] == slru.PROTECTED]
    assert policy.protected.size == len(protected) > 0
    assert all(policy.protected.holds(node) for node in protected)


@pytest.mark.parametrize("seed", range(5))
def test_s3fifo_counts_the_small_queue_and_at_most_three_uses(seed: int) -> None:
    policy, index = served("s3fifo", link(random_requests(seed), 4))
    cached = index.first >= 0
    assert policy.small_nodes == (cached & (policy.in_queue == s3fifo.SMALL)).sum()
    assert policy.is_ghost.sum() == index.ghost.size > 0
    policy, _ = served("s3fifo", single_blocks("abaaaaaab"))
    assert policy.uses.tolist() == [3, 1]


def test_wa_counts_releases_reuses_and_the_time_between() -> None:
    # Next to the two trials, one success and 12 blocks of time that each category begins with: a is released three
    # times and used again twice, after one computed block and after none; b and c are released once.
    policy, _ = served("workload_aware", single_blocks("abaac"))
    assert policy.released_nodes.tolist() == [2 + 5]
    assert policy.reused_nodes.tolist() == [1 + 2]
    assert policy.waited.tolist() == [CAPACITY + 1 + 0]


def test_fifo_keeps_the_arrival_of_a_node_that_is_used_again() -> None:
    policy, _ = served("fifo", single_blocks("abac"))
    assert policy.arrival.tolist() == [1, 2, 3]


def test_opt_has_no_use_ahead_when_all_requests_are_served() -> None:
    policy, _ = served("belady", single_blocks("abcab"))
    assert policy.next.tolist() == policy.end.tolist() == [2, 4, 5]
