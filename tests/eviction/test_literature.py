"""The literature's policies in plain Python: step tables from their own rules, and their formulas by hand."""

from typing import Any

import numpy as np
import pytest

from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.check import random_requests
from vllm_sim.eviction.policies.gdsf import Gdsf
from vllm_sim.eviction.policies.intellikv import IntelliKV
from vllm_sim.eviction.policies.lecar import LFU, LRU, LeCaR
from vllm_sim.eviction.policies.lhd import Lhd
from vllm_sim.eviction.policies.lpc import LearnedPrefix
from vllm_sim.eviction.policies.tlru import TailLru
from vllm_sim.eviction.policy import PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import make_context
from vllm_sim.trace.hints import NO_HINTS


def plain_hits(chains: Chains, policy: str, capacity: int, seed: int = 0, **params: Any) -> list[int]:
    ranker = make_policy(policy, make_context(chains, policy, capacity, seed), params)
    out = np.zeros((chains.need.size, 6), np.int64)
    index = PrefixIndex(capacity, chains.working_set, ranker, recycle=False)
    kernel.serve.py_func(index, ranker, chains, kernel.empty_slots(capacity), np.arange(chains.need.size), out)
    return out[:, kernel.HIT].tolist()


def hits(policy: str, blocks: str, capacity: int, seed: int = 0, **params: Any) -> str:
    """A 1 for each request that hits; a request is one raw block, named by a letter."""
    zeros = np.zeros(len(blocks), np.int64)
    ids = np.array([ord(block) for block in blocks], np.int64)
    chains = link(Requests(ids, np.arange(len(blocks) + 1), zeros + 1, zeros, zeros, zeros), 1, raw=True)
    return "".join(map(str, plain_hits(chains, policy, capacity, seed, **params)))


@pytest.mark.parametrize(
    ("policy", "params", "capacity", "blocks", "expected"),
    [
        # d: the hand lets a off and evicts b; e evicts c and f evicts d, where the hand is. Under LRU f evicts a.
        ("sieve", {}, 3, "abcadefa", "00010001"),
        ("lru", {}, 3, "abcadefa", "00010000"),
        # d: the hand lets b off and evicts c; e: it lets d off, starts again, and evicts b.
        ("sieve", {}, 2, "abbcddedb", "001001010"),
        # The ghost a returns to the LRU queue: f to i evict from the FIFO queue.
        ("2q", {}, 4, "abcdeafghia", "00000000001"),
        # A use in the FIFO queue moves nothing: e evicts a. Under LRU it evicts b.
        ("2q", {}, 4, "abcdaea", "0000100"),
        ("lru", {}, 4, "abcdaea", "0000101"),
        # As plain LFU with age where all cost the same.
        ("gdsf", {}, 3, "aabcdbea", "01000000"),
    ],
)
def test_a_policy_follows_its_own_rule(
    policy: str, params: dict[str, Any], capacity: int, blocks: str, expected: str
) -> None:
    assert hits(policy, blocks, capacity, **params) == expected


def test_gdsf_counts_a_block_for_what_its_place_costs() -> None:
    policy = Gdsf(PolicyContext(4, 4), attention_blocks=2.0)
    for node in range(3):
        policy.cached(node, node - 1)
    policy.hit(0)
    for node in (2, 1, 0):
        policy.released(node)
    unit = policy.key[0] / 2
    assert (policy.key / unit).tolist() == [2.0, 1.5, 2.0, 0.0]


def test_lecar_trusts_an_expert_less_that_evicted_what_comes_back() -> None:
    policy = LeCaR(PolicyContext(4, 8), rate=0.45)
    policy.cached(0, -1)
    policy.chosen = LRU
    policy.evicted(0)
    policy.cached(0, -1)
    policy.started(1, 1)
    weight = 0.5 * np.exp(-0.45 * 0.005 ** (1 / 4))
    assert policy.weight[LRU] == pytest.approx(weight / (weight + 0.5))
    assert policy.weight[LRU] + policy.weight[LFU] == pytest.approx(1)


def test_lecar_with_one_expert_left_is_that_expert() -> None:
    policy = LeCaR(PolicyContext(3, 8))
    index = PrefixIndex(3, 8, policy, recycle=False)
    for node in range(3):
        index.cache(policy, node, node, -1, False)
        index.release(policy, node)
    index.touch(policy, 0, False)
    index.touch(policy, 1, False)
    for block in (0, 1):
        index.release(policy, block)
    policy.weight[:] = 0.0, 1.0
    assert policy.victim(index) == 2
    policy.weight[:] = 1.0, 0.0
    index.touch(policy, 2, False)
    index.release(policy, 2)
    assert policy.victim(index) == 0


def test_the_density_is_hits_over_the_time_until_hits_and_evictions() -> None:
    policy = Lhd(PolicyContext(4, 4), prior=0.0)
    policy.hits[0, 3], policy.evictions[0, 1] = 2.0, 4.0
    policy.refresh()
    # From 0: four leave after 1.5 on average, two after 3.5; from 2: two after 1.5.
    assert policy.density[0, 0] == pytest.approx(2 / (4 * 1.5 + 2 * 3.5))
    assert policy.density[0, 2] == pytest.approx(2 / (2 * 1.5))


def test_of_each_conversation_what_its_next_turn_can_compute_in_time_goes_first() -> None:
    policy = TailLru(PolicyContext(12, 12), budget=3, next_prompt=1)
    index = PrefixIndex(12, 12, policy, recycle=False)
    for first in (0, 6):
        for node in range(first, first + 6):
            index.cache(policy, node, node, node - 1 if node > first else -1, False)
        for node in range(first + 5, first - 1, -1):
            index.release(policy, node)
    assert [index.evict(policy) for _ in range(6)] == [5, 4, 11, 10, 3, 2]


def test_what_was_used_in_the_present_phase_outlives_what_was_not() -> None:
    runs = [hits("rlt", "abcded", 3, seed) for seed in range(12)]
    assert {run[5] for run in runs} == {"1"}
    assert len({hits("rlt", "abcdabc", 3, seed) for seed in range(12)}) > 1


def serve(policy: LearnedPrefix, nodes: list[int], matched: int, prompt_blocks: int) -> None:
    policy.serves(RequestFacts(np.nan, prompt_blocks, matched, *NO_HINTS))
    policy.started(0, len(nodes))
    for node in nodes[:matched]:
        policy.hit(node)
    for i, node in enumerate(nodes[matched:], matched):
        policy.cached(node, nodes[i - 1] if i else -1)
    for node in reversed(nodes):
        policy.released(node)


def test_the_chance_that_a_conversation_goes_on_is_that_of_those_before_it() -> None:
    policy = LearnedPrefix(PolicyContext(20, 20), prior=2.0)
    serve(policy, [0, 1, 2], 0, 2)  # goes on
    serve(policy, [0, 1, 2, 3, 4], 3, 4)  # does not
    serve(policy, [5, 6, 7], 0, 2)  # does not
    serve(policy, [8, 9, 10], 0, 2)
    assert policy.continues(0, 1) == pytest.approx((1 + 2) / (2 + 4))
    assert policy.continues(1, 1) == pytest.approx((0 + 2) / (1 + 4))
    serve(policy, [11, 12, 13], 0, 2)  # one more has not gone on by now
    assert policy.step[13] < policy.step[10]


def test_a_gamma_of_zero_is_lru() -> None:
    chains = link(random_requests(3), 4)
    assert plain_hits(chains, "intellikv", 9, gamma=0.0) == plain_hits(chains, "lru", 9)


def test_a_class_that_comes_back_less_than_others_counts_as_older() -> None:
    policy = IntelliKV(PolicyContext(10, 4), prior=1.0)
    policy.all_came[2], policy.all_returned[2] = 98.0, 49.0
    policy.came[7, 2] = 99.0
    assert policy.stretch(7, 2) == pytest.approx((1 - 0.5 / 100) / 0.5)
    assert policy.stretch(8, 2) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("policy", "params", "message"),
    [
        ("2q", {"new": 1.0}, "new is 1.0"),
        ("gdsf", {"attention_blocks": 0}, "attention_blocks is 0"),
        ("lecar", {"rate": -1}, "rate is -1"),
        ("lhd", {"keep": 2}, "keep is 2; allowed: 0 to 1"),
        ("tlru", {"budget": -1}, "budget is -1"),
        ("lpc", {"half_life": 0}, "half_life is 0"),
        ("intellikv", {"gamma": float("nan")}, "gamma is nan"),
    ],
)
def test_a_parameter_out_of_range_is_refused(policy: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(policy, PolicyContext(10, 10), params)
