"""The hybrid policy: its table by hand, its count of LRU's hits, scans, and traffic that turns against it."""

from typing import Any

import numpy as np
import pytest

from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.online_cache import _drop, _Pair
from vllm_sim.eviction.policies.hybrid import AGES, Hybrid
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import make_context, simulate


def raw_chains(rows: list[list[int]]) -> Chains:
    zeros = np.zeros(len(rows), np.int64)
    begins = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = np.array([block for row in rows for block in row], np.int64)
    return link(Requests(ids, begins, zeros + 1, zeros, zeros, zeros), 1, raw=True)


def scans(rounds: int, hot: int = 20, cold: int = 30) -> list[list[int]]:
    """Chains of four blocks that are asked for every round, and as many more that never come again."""
    fresh = iter(range(10**6, 10**9))
    rows = []
    for _ in range(rounds):
        rows += [[10 * chain + i for i in range(4)] for chain in range(hot)]
        rows += [[next(fresh) for _ in range(4)] for _ in range(cold)]
    return rows


def loops(rounds: int, size: int) -> list[list[int]]:
    """Chains of four blocks, each asked for twice in a row, that come again after `size` others."""
    return [
        [5 * 10**8 + 10 * chain + i for i in range(4)] for _ in range(rounds) for chain in range(size) for _ in "ab"
    ]


def served(chains: Chains, capacity: int, **params: Any) -> tuple[Any, np.ndarray]:
    """The policy after all requests, in plain Python, and the hits."""
    policy: Any = make_policy("hybrid", make_context(chains, "hybrid", capacity), params)
    out = np.zeros((chains.need.size, 6), np.int64)
    index = PrefixIndex(capacity, chains.working_set, policy, recycle=False)
    kernel.serve.py_func(index, policy, chains, kernel.empty_slots(capacity), np.arange(chains.need.size), out)
    return policy, out[:, kernel.HIT]


def test_a_scan_does_not_push_out_what_comes_again():
    chains = raw_chains(scans(40))
    asked = chains.need.sum()
    lru, hybrid, opt = (simulate(chains, name, 120).hit.sum() / asked for name in ("lru", "hybrid", "belady"))
    assert lru == 0
    assert hybrid > 0.8 * opt > 0.25


def test_part_of_a_loop_that_is_longer_than_the_cache_is_kept():
    chains = raw_chains([[10 * chain + i for i in range(4)] for _ in range(60) for chain in range(45)])
    asked = chains.need.sum()
    lru, opt = (simulate(chains, name, 120).hit.sum() / asked for name in ("lru", "belady"))
    both, oldest = (simulate(chains, "hybrid", 120, {"ends": ends}).hit.sum() / asked for ends in (1, 0))
    assert lru == 0
    # What is worth least there is what was used last, at the end of the queue that LRU keeps.
    assert both > 0.8 * opt > 0.5
    assert oldest < 0.1


@pytest.mark.parametrize(
    ("part", "told_apart"), [("", (3, 25, 22)), ("uses", (0, 25, 22)), ("origins", (3, 5, 22)), ("ages", (3, 25, 0))]
)
def test_a_part_that_is_off_tells_nothing_apart(part: str, told_apart: tuple[int, int, int]):
    policy = Hybrid(PolicyContext(4, 4), **{name: 0 for name in [part] if name})
    assert (policy.bucket(9), policy.queues, policy.bin(2**11)) == told_apart


def test_hits_that_lru_would_have_had_are_counted():
    random = np.random.default_rng(3)
    rows = [[int(chain) * 10 + i for i in range(1 + int(chain) % 5)] for chain in random.zipf(1.3, 800) % 90]
    chains = raw_chains(rows)
    policy, hit = served(chains, 60)
    assert policy.lru_hits == simulate(chains, "lru", 60).hit.sum()
    assert policy.won == hit.sum() - policy.lru_hits
    assert policy.asked == policy.used == chains.need.sum()


def test_what_lru_holds_and_the_cache_does_not_is_counted():
    policy, _ = served(raw_chains(scans(12)), 120)
    missing = [node for node in range(policy.count.size) if policy.in_lru.holds(node) and policy.gone[node]]
    assert policy.missing == len(missing) > 0


@pytest.mark.parametrize("before", [scans(12), scans(30)], ids=["short", "long"])
def test_traffic_that_turns_costs_little_against_lru(before):
    """LRU hits half of a loop that is longer than the cache; what was learned from scans must not cost more of it."""
    chains = raw_chains(before + loops(20, 60))
    lru, hybrid = (simulate(chains, name, 120).hit.sum() for name in ("lru", "hybrid"))
    assert hybrid >= lru - 0.005 * chains.need.sum()


def test_without_slack_and_without_gains_it_is_lru():
    chains = raw_chains([[int(block)] for block in np.random.default_rng(5).integers(0, 300, 3000)])
    _, hit = served(chains, 100, slack=0.0)
    # Independent requests: nothing is to be learned, and nothing may be risked.
    assert (hit == simulate(chains, "lru", 100).hit).all()


def test_the_worth_of_a_class_is_its_best_ratio_of_use_to_room():
    policy = Hybrid(PolicyContext(100, 10))
    chance = np.zeros(7)
    chance[0], chance[5] = 0.2, 0.5
    policy.write_worth(7, chance)
    # Bins are 1, 1, 1, 1, 2, 2 wide. From 0: give up after bin 0, or wait for bin 5: more use for more room.
    assert policy.worth[7, 0] == pytest.approx(0.2 / 0.9)
    # From bin 1: through 1 + 1 + 1 + 2 blocks of time without a use, then half a chance within 2 (1.5 on average).
    assert policy.worth[7, 1] == pytest.approx(0.5 / (1 + 1 + 1 + 2 + 2 * 0.75))
    assert policy.worth[7, 5] == pytest.approx(0.5 / 1.5)
    assert policy.worth[7, 6] == 0


def test_the_worth_is_that_of_the_best_time_to_give_up():
    random = np.random.default_rng(11)
    policy = Hybrid(PolicyContext(100, 10))
    for _ in range(200):
        chance = random.random(9) ** random.integers(1, 9) * (random.random(9) < 0.6)
        policy.write_worth(3, chance)
        for begin in range(9):
            alive, used, room, best = 1.0, 0.0, 0.0, 0.0
            for age in range(begin, 9):
                used += alive * chance[age]
                room += alive * (1.0 if age < 2 else 2.0 ** (age // 2 - 1)) * (1 - chance[age] / 2)
                alive *= 1 - chance[age]
                best = max(best, used / room)
            assert policy.worth[3, begin] == pytest.approx(best)


@pytest.mark.parametrize("age", [0, 1, 2, 3, 4, 6, 8, 12, 16, 1000, 10**9])
def test_bins_are_half_octaves(age: int):
    policy = Hybrid(PolicyContext(4, 4))
    low = 2 ** int(np.log2(max(age, 1)))
    width = 1 if age < 2 else max(low // 2, 1)
    begin = age - (age - low) % width if age >= 2 else age
    assert policy.bin(begin) == policy.bin(age) == policy.bin(begin + width - 1)
    assert policy.bin(begin + width) == policy.bin(age) + 1


def test_an_eviction_hides_no_use():
    """A wait goes on when its node is evicted, and ends when the ghost is used."""
    policy = Hybrid(PolicyContext(4, 10))
    policy.cached(0, -1)
    policy.released(0)
    policy.now = policy.time = 9
    policy.evicted(0)
    policy.now = policy.time = 33
    policy.cached(0, -1)
    assert policy.reused[0, policy.bin(32)] == policy.reused.sum() == 1
    assert policy.lost.sum() == policy.waiting.sum() == 0


def test_a_forgotten_node_was_not_used_until_then():
    policy = Hybrid(PolicyContext(4, 10))
    policy.cached(0, -1)
    policy.released(0)
    policy.evicted(0)
    policy.now = policy.time = 21
    policy.forgotten(0)
    assert policy.lost[0, policy.bin(20)] == policy.lost.sum() == 1
    assert policy.reused.sum() == policy.waiting.sum() == 0


def test_who_still_waits_counts_for_as_long_as_it_has_waited():
    """Of four nodes one is used at once; without the three that wait on, a use would look certain."""
    policy = Hybrid(PolicyContext(1000, 10), prior=0.0)
    for node in range(4):
        policy.cached(node, -1)
        policy.released(node)
    policy.hit(0)
    policy.now = 1000
    policy.refresh()
    assert policy.worth[0, 0] == pytest.approx(0.25 / (1 - 0.25 / 2))


def test_all_waits_are_counted_once():
    policy, _ = served(raw_chains(scans(12)), 120)
    waits = [(policy.kind[node], policy.place(policy.left[node])) for node in np.flatnonzero(policy.left >= 0)]
    counted = np.zeros_like(policy.waiting)
    for kind, place in waits:
        counted[kind, place] += 1
    assert waits
    assert (policy.waiting == counted).all()


def test_a_later_turn_is_of_another_class_than_a_call_that_begins_anew():
    policy = Hybrid(PolicyContext(10, 10))
    for node, parent in ((0, -1), (1, 0)):
        policy.cached(node, parent)
    for node in (1, 0):
        policy.released(node)
    assert policy.kind[0] == policy.kind[1] == 0
    policy.hit(0)
    policy.hit(1)
    policy.cached(2, 1)
    policy.cached(3, 2)
    for node in (3, 2, 1, 0):
        policy.released(node)
    assert policy.kind[:4].tolist() == [1, 1, 5, 5]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"slack": -0.1}, "slack is -0.1"),
        ({"slack": float("nan")}, "slack is nan"),
        ({"margin": 1.5}, "allowed: 0 to 1"),
        ({"ghosts": float("inf")}, "ghosts is inf"),
        ({"origins": 2}, "allowed: 0, 1"),
        ({"uses": -1}, "uses is -1; allowed: 0, 1"),
        ({"ages": 2}, "ages is 2; allowed: 0, 1"),
        ({"ends": 2}, "ends is 2; allowed: 0, 1"),
        ({"memory": 0}, "memory is 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        make_policy("hybrid", PolicyContext(10, 10), params)


@pytest.mark.parametrize(
    ("won", "missing", "block"),
    [(0, 0, 1), (-1, 0, 0), (3, 0, 1), (3, 8, 0), (100, 12, 0)],
    ids=["nothing at risk", "lost against LRU", "won", "risk above what was won", "gains count up to the cache's size"],
)
def test_the_classes_decide_only_while_the_risk_is_below_what_was_won(won: int, missing: int, block: int) -> None:
    policy = Hybrid(PolicyContext(4, 4), slack=0.1)
    index = PrefixIndex(4, 4, policy, recycle=False)
    for number in (0, 1):
        index.cache(policy, number, number, -1, False)
    policy.hit(0)  # the older of the two is of a better class
    for number in (0, 1):
        index.release(policy, number)
    policy.worth[1, :] = 1.0
    policy.lru_hits, policy.used, policy.asked, policy.won, policy.missing = 4, 9, 9, won, missing
    assert policy.victim(index) == block


def test_who_was_lost_in_a_bin_was_at_risk_for_half_of_it() -> None:
    lost, reused = np.zeros(AGES), np.zeros(AGES)
    lost[2], reused[2], reused[5] = 4, 2, 4
    chance = Hybrid(PolicyContext(100, 10)).chances(reused, lost, np.full(AGES, 0.5), 2.0)
    assert chance[[1, 2, 5]] == pytest.approx([1 / 12, (2 + 1) / (10 - 2 + 2), (4 + 1) / (4 + 2)])


@pytest.mark.parametrize(("worth", "block"), [(0.9, 1), (0.98, 0)], ids=["clearly less", "about the same"])
def test_the_oldest_goes_unless_another_is_worth_clearly_less(worth: float, block: int) -> None:
    policy = Hybrid(PolicyContext(4, 4), slack=1.0)
    index = PrefixIndex(4, 4, policy, recycle=False)
    for number in (0, 1):
        index.cache(policy, number, number, -1, False)
    policy.hit(0)
    for number in (0, 1):
        index.release(policy, number)
    policy.worth[0, :], policy.worth[1, :] = worth, 1.0
    policy.asked = 9
    assert policy.victim(index) == block


def test_a_reset_costs_no_hits_against_lru() -> None:
    """What a reset took is computed again; LRU had lost it as well, so that is no hit that the policy owes."""
    policy = Hybrid(PolicyContext(4, 4))
    index = PrefixIndex(4, 4, policy, recycle=False)
    for _ in range(2):
        for number in (0, 1):
            index.cache(policy, number, number, -1, False)
        for number in (1, 0):
            index.release(policy, number)
        for number in (0, 1):
            _drop.py_func(_Pair(index, policy), number)
    assert (policy.lru_hits, policy.won, policy.missing) == (0, 0, 0)


def test_use_counts_fall_into_five_classes() -> None:
    policy = Hybrid(PolicyContext(4, 4))
    counts = (1, 2, 3, 4, 5, 16, 17, 1000)
    assert [policy.bucket(count) for count in counts] == [0, 1, 2, 2, 3, 3, 4, 4]


def test_observations_count_half_after_memory_times_the_cache() -> None:
    policy = Hybrid(PolicyContext(4096, 4), memory=2.0)
    policy.reused[3, 0] = policy.lost[3, 2] = 8.0
    for _ in range(2 * 4096 // policy.refresh_blocks):
        policy.refresh()
    assert policy.reused[3, 0] == pytest.approx(4.0)
    assert policy.lost[3, 2] == pytest.approx(4.0)


def test_a_class_that_was_not_seen_takes_the_wider_estimate_and_a_larger_cache_asks_for_more_to_leave_it() -> None:
    worth = []
    for blocks in (100, 10_000):
        policy = Hybrid(PolicyContext(blocks, 4))
        policy.reused[0, 0] = policy.lost[0, 0] = 1000.0  # of the use count 1: half come again at once
        policy.lost[5, 0] = 50.0  # of a class with the same use count: none of them
        policy.refresh()
        assert policy.worth[10, 0] == pytest.approx(policy.worth[15, 0])
        worth.append(policy.worth[5, 0] / policy.worth[10, 0])
    assert worth[0] < 0.2 < 0.8 < worth[1]
