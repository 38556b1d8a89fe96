"""The hybrid policy: its classes, its count of LRU's hits, scans, hints, and traffic that turns against it."""

from typing import Any

import numpy as np
import pytest

from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.policies.hybrid import END, KIND, ORIGIN, OUTPUT, PACE, PACES, USE, Hybrid
from vllm_sim.eviction.policy import PolicyContext, RequestFacts
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
    """What may be kept against LRU's order grows with what it wins: after twenty rounds it is all that comes again."""
    chains = raw_chains(scans(40))
    late = np.arange(chains.need.size) >= chains.need.size // 2
    lru, hybrid, opt = (simulate(chains, name, 120).hit[late].sum() for name in ("lru", "hybrid", "belady"))
    assert lru == 0
    assert hybrid == opt == 20 * 20 * 4


def test_part_of_a_loop_that_is_longer_than_the_cache_is_kept():
    chains = raw_chains([[10 * chain + i for i in range(4)] for _ in range(60) for chain in range(45)])
    blocks = chains.need.sum()
    lru, opt = (simulate(chains, name, 120).hit.sum() / blocks for name in ("lru", "belady"))
    slack = 0.02  # LRU hits nothing, and by default it takes longer until the guard allows enough
    both, oldest = (
        simulate(chains, "hybrid", 120, {"ends": ends, "slack": slack}).hit.sum() / blocks for ends in (1, 0)
    )
    assert lru == 0
    # What is worth least there is what was used last, at the end of the queue that LRU keeps.
    assert both > 0.8 * opt > 0.5
    assert oldest < 0.1


NAN = float("nan")


def begin(policy: Hybrid, arrival_ms: float = NAN, prompt_blocks: int = 9, matched: int = 0, **hints: float) -> None:
    """A request starts."""
    names = ("session_end", "next_turn_ms", "retention_priority", "retention_ms")
    policy.serves(RequestFacts(arrival_ms, prompt_blocks, matched, *(hints.get(name, NAN) for name in names)))
    policy.started(0, prompt_blocks)


NUMBERS = {"use": USE, "origin": ORIGIN, "kind": KIND, "output": OUTPUT, "pace": PACE, "end": END}


def class_of(policy: Hybrid, node: int) -> dict[str, int]:
    policy.describe(node)
    return {name: int(policy.values[place]) for name, place in NUMBERS.items()}


def one_node(**params: Any) -> Hybrid:
    """A policy whose node 0 was used three times, 8 seconds apart, by requests that continue each other."""
    policy = Hybrid(PolicyContext(10, 10), **params)
    begin(policy, 1000.0, 1)
    policy.cached(0, -1)
    policy.released(0)
    for turn in (1, 2):
        begin(policy, 1000.0 + 8000 * turn, 1, 1, session_end=float(turn - 1), next_turn_ms=3000.0)
        policy.hit(0)
        policy.released(0)
    return policy


SEEN = {"use": 2, "origin": 0, "kind": 2, "output": 0, "pace": PACES + 2, "end": 2}


def test_a_class_says_uses_origin_kind_output_next_turn_and_end():
    assert class_of(one_node(), 0) == SEEN


@pytest.mark.parametrize(
    ("part", "changed"),
    [("uses", {"use": 0}), ("kinds", {"kind": 0}), ("paces", {}), ("hints", {"pace": 3, "end": 0})],
)
def test_a_part_that_is_off_tells_nothing_apart(part: str, changed: dict[str, int]):
    assert class_of(one_node(**{part: 0}), 0) == SEEN | changed


def test_a_chain_without_a_pace_or_a_hint_is_of_the_first_pace():
    assert class_of(one_node(paces=0, hints=0), 0)["pace"] == 0


def test_generated_blocks_and_the_chain_that_a_node_continues_are_in_its_class():
    policy = Hybrid(PolicyContext(20, 20))
    begin(policy, prompt_blocks=2)
    for node in range(5):
        policy.cached(node, node - 1)
    for node in (4, 3, 2, 1, 0):
        policy.released(node)
    assert [class_of(policy, node)["output"] for node in (0, 4)] == [2, 2]  # three blocks
    begin(policy, prompt_blocks=6, matched=5)
    for node in range(5):
        policy.hit(node)
    policy.cached(5, 4)
    policy.cached(6, 5)
    for node in (6, 5, 4, 3, 2, 1, 0):
        policy.released(node)
    expected = {"kind": 2, "output": 1, "pace": 1, "end": 0}
    assert class_of(policy, 0) == expected | {"use": 1, "origin": 0}
    assert class_of(policy, 6) == expected | {"use": 0, "origin": 1}


def test_what_several_sessions_share_is_described_without_their_hints():
    policy = Hybrid(PolicyContext(20, 20))
    begin(policy, 0.0, 3, session_end=1.0)
    for node in range(3):
        policy.cached(node, node - 1)
    for node in (2, 1, 0):
        policy.released(node)
    assert class_of(policy, 0)["end"] == 2
    begin(policy, 5000.0, 4, 1, session_end=1.0)  # a new session under the same first block
    policy.hit(0)
    for node, parent in ((3, 0), (4, 3), (5, 4)):
        policy.cached(node, parent)
    for node in (5, 4, 3, 0):
        policy.released(node)
    assert [class_of(policy, node)["end"] for node in (5, 0)] == [2, 0]


def test_hints_that_are_right_are_worth_much_and_hints_that_lie_are_not_believed():
    """Sessions end after any turn with the same chance: nothing else shows it. A liar says it of every turn."""
    draw = np.random.default_rng(4)
    events = []
    for session in range(300):
        times = draw.uniform(0, 600_000) + np.cumsum(draw.exponential(40_000, draw.geometric(0.5)))
        events += [(time, session) for time in times]
    events.sort()
    chains = raw_chains([[100 * session + i for i in range(8)] for _, session in events])
    chains = chains._replace(arrival_ms=np.array([time for time, _ in events]))
    last = {session: row for row, (_, session) in enumerate(events)}
    truth = np.array([float(last[session] == row) for row, (_, session) in enumerate(events)])
    hits = {}
    for name, said in (("none", np.full(truth.size, NAN)), ("right", truth), ("lies", np.ones(truth.size))):
        hints = np.full((truth.size, 4), NAN)
        hints[:, 0] = said
        hits[name] = simulate(chains._replace(hints=hints), "hybrid", 160).hit.sum()
    blocks = chains.need.sum()
    assert hits["right"] > hits["none"] + 0.05 * blocks
    assert hits["lies"] >= hits["none"] - 0.01 * blocks


def test_hits_that_lru_would_have_had_are_counted():
    random = np.random.default_rng(3)
    rows = [[int(chain) * 10 + i for i in range(1 + int(chain) % 5)] for chain in random.zipf(1.3, 800) % 90]
    chains = raw_chains(rows)
    policy, hit = served(chains, 60)
    won = hit.sum() - simulate(chains, "lru", 60).hit.sum()
    assert policy.guard.won == won != 0
    assert policy.guard.hittable == chains.need.sum()


def test_what_lru_holds_and_the_cache_does_not_is_counted():
    guard = served(raw_chains(scans(12)), 120)[0].guard
    missing = [node for node in range(guard.gone.size) if guard.held.holds(node) and guard.gone[node]]
    assert guard.missing == len(missing) > 0


@pytest.mark.parametrize("before", [scans(12), scans(30)], ids=["short", "long"])
def test_traffic_that_turns_costs_little_against_lru(before):
    """LRU hits half of a loop that is longer than the cache; what was learned from scans must not cost more of it."""
    chains = raw_chains(before + loops(20, 60))
    lru, hybrid = (simulate(chains, name, 120).hit.sum() for name in ("lru", "hybrid"))
    assert hybrid >= lru - 0.005 * chains.need.sum()


def turning(seed: int) -> tuple[Chains, np.ndarray]:
    """Random traffic of two workloads that share nothing: what comes again is drawn anew every hundred requests."""
    random = np.random.default_rng(seed)
    rows, category = [], []
    for request in range(2000):
        if request % 100 == 0:
            spans, first = random.integers(5, 60, 2), random.integers(0, 90, 2)
        workload = int(random.integers(0, 2))
        chain = first[workload] + random.integers(0, spans[workload])
        rows.append([10**6 * workload + 10 * int(chain) + i for i in range(1 + int(chain) % 7)])
        category.append(workload)
    return raw_chains(rows), np.array(category)


@pytest.mark.parametrize("slack", [0.0, 0.003, 0.02])
def test_hits_are_never_more_below_those_of_lru_than_the_guard_proves(slack: float) -> None:
    lowest = 0
    for seed in range(12):
        chains, _ = turning(seed)
        params = {"slack": slack, "memory": 0.5}  # what it learns is soon wrong
        lru, hybrid = (simulate(chains, *run).hit.cumsum() for run in (("lru", 120), ("hybrid", 120, params)))
        assert (lru - hybrid <= slack * chains.hittable.cumsum()).all()
        lowest = min(lowest, (hybrid - lru).min())
    assert (lowest < 0) == (slack > 0)


def test_no_category_loses_more_than_its_share() -> None:
    fair, lost = 0.01, 0.0
    for seed in range(12):
        chains, category = turning(seed)
        chains = chains._replace(category=category)
        lru = simulate(chains, "lru", 120).hit
        for bound in (1.0, fair):
            gain = simulate(chains, "hybrid", 120, {"slack": 1e9, "fair": bound, "memory": 0.5}).hit - lru
            for one in range(2):
                own = category == one
                share = (gain[own].cumsum() / chains.hittable[own].cumsum())[50:].min()
                lost = min(lost, share)
                assert bound == 1 or (gain[own].cumsum() >= -fair * chains.hittable[own].cumsum()).all()
    assert lost < -fair


def test_without_slack_and_without_gains_it_is_lru():
    chains = raw_chains([[int(block)] for block in np.random.default_rng(5).integers(0, 300, 3000)])
    _, hit = served(chains, 100, slack=0.0)
    # Independent requests: nothing is to be learned, and nothing may be risked.
    assert (hit == simulate(chains, "lru", 100).hit).all()


def test_an_eviction_hides_no_use():
    """A wait goes on when its node is evicted, and ends when the ghost is used."""
    policy = Hybrid(PolicyContext(4, 10))
    policy.cached(0, -1)
    policy.released(0)
    policy.time = 9
    policy.evicted(0)
    policy.time = 32
    policy.cached(0, -1)
    assert policy.classes.reused[policy.kind[0], policy.classes.bin(32)] == policy.classes.reused.sum() == 1
    assert policy.classes.lost.sum() == policy.classes.waiting.sum() == 0


def test_a_forgotten_node_was_not_used_until_then():
    policy = Hybrid(PolicyContext(4, 10))
    policy.cached(0, -1)
    policy.released(0)
    policy.evicted(0)
    policy.time = 20
    policy.forgotten(0)
    assert policy.classes.lost[policy.kind[0], policy.classes.bin(20)] == policy.classes.lost.sum() == 1
    assert policy.classes.reused.sum() == policy.classes.waiting.sum() == 0


def test_all_waits_are_counted_once():
    policy, _ = served(raw_chains(scans(12)), 120)
    counted = np.zeros_like(policy.classes.waiting)
    for node in np.flatnonzero(policy.left >= 0):
        counted[policy.kind[node], policy.left_place[node]] += 1
    assert counted.sum() > 0
    assert (policy.classes.waiting == counted).all()


def test_time_is_that_of_arrivals_where_there_are_any():
    for arrivals, waited in (((0.0, 7000.0), 7000), ((NAN, NAN), 1)):
        policy = Hybrid(PolicyContext(4, 10))
        begin(policy, arrivals[0])
        policy.cached(0, -1)
        policy.released(0)
        begin(policy, arrivals[1])
        assert policy.time - policy.left[0] == waited
    policy = Hybrid(PolicyContext(4, 10), clock=0)
    begin(policy, 5000.0)
    assert policy.time == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"slack": -0.1}, "slack is -0.1"),
        ({"slack": NAN}, "slack is nan"),
        ({"fair": 1.5}, "fair is 1.5; allowed: 0 to 1"),
        ({"margin": 1.5}, "allowed: 0 to 1"),
        ({"ghosts": float("inf")}, "ghosts is inf"),
        ({"origins": 2}, "allowed: 0, 1"),
        ({"uses": -1}, "uses is -1; allowed: 0, 1"),
        ({"ages": 2}, "ages is 2; allowed: 0, 1"),
        ({"ends": 2}, "ends is 2; allowed: 0, 1"),
        ({"hints": 2}, "hints is 2; allowed: 0, 1"),
        ({"memory": 0}, "memory is 0"),
    ],
)
def test_a_parameter_out_of_range_is_refused(params, message):
    with pytest.raises(ValueError, match=message):
        make_policy("hybrid", PolicyContext(10, 10), params)


def two_blocks(policy: Hybrid) -> PrefixIndex:
    """Two nodes that were left alone, 0 before 1; the older of the two is of a better class."""
    index = PrefixIndex(4, 4, policy, recycle=False)
    begin(policy)
    for number in (0, 1):
        index.cache(policy, number, number, -1, False)
    policy.hit(0)
    for number in (0, 1):
        index.release(policy, number)
    return index


@pytest.mark.parametrize(
    ("won", "missing", "block"),
    [(0, 0, 1), (-1, 0, 0), (3, 0, 1), (3, 8, 0), (100, 12, 0)],
    ids=["nothing at risk", "lost against LRU", "won", "risk above what was won", "gains count up to the cache's size"],
)
def test_the_classes_decide_only_while_the_risk_is_below_what_was_won(won: int, missing: int, block: int) -> None:
    policy = Hybrid(PolicyContext(4, 4), slack=0.1)
    index = two_blocks(policy)
    policy.classes.worth[policy.kind[0], :] = 1.0
    policy.classes.worth[policy.kind[1], :] = 0.0
    guard = policy.guard
    guard.hittable, guard.won, guard.missing = 10, won, missing
    guard.start(0)
    assert policy.victim(index) == block


@pytest.mark.parametrize(("worth", "block"), [(0.9, 1), (0.99, 0)], ids=["clearly less", "about the same"])
def test_the_oldest_goes_unless_another_is_worth_clearly_less(worth: float, block: int) -> None:
    policy = Hybrid(PolicyContext(4, 4), slack=1.0)
    index = two_blocks(policy)
    policy.classes.worth[policy.kind[0], :], policy.classes.worth[policy.kind[1], :] = 1.0, worth
    assert policy.victim(index) == block


@pytest.mark.parametrize(("free", "block"), [((0, 1), 1), ((0,), 0), ((1,), 1), ((), 0)])
def test_where_nothing_may_be_risked_the_least_of_what_lru_does_not_hold_goes(
    free: tuple[int, ...], block: int
) -> None:
    policy = Hybrid(PolicyContext(4, 4), slack=0.0)
    index = two_blocks(policy)
    policy.classes.worth[policy.kind[0], :], policy.classes.worth[policy.kind[1], :] = 1.0, 0.5
    for node in free:
        policy.guard.held.remove(node)
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
            policy.dropped(number)
            index.drop(policy, number)
    assert (policy.guard.won, policy.guard.missing) == (0, 0)


@pytest.mark.parametrize(("ages", "worth"), [(1, 2.0), (0, 0.0)])
def test_worth_looks_at_the_age_unless_that_is_off(ages: int, worth: float) -> None:
    policy = Hybrid(PolicyContext(4, 4), ages=ages)
    index = two_blocks(policy)
    policy.classes.worth[policy.kind[0], 2:] = 2.0
    policy.time += 1000
    assert policy.worth_of(index, 0, policy.kind[0]) == worth


def test_use_counts_fall_into_five_classes() -> None:
    policy = Hybrid(PolicyContext(4, 4))
    counts = (1, 2, 3, 4, 5, 16, 17, 1000)
    assert [policy.bucket(count) for count in counts] == [0, 1, 2, 2, 3, 3, 4, 4]


def test_observations_count_half_after_memory_times_the_cache() -> None:
    policy = Hybrid(PolicyContext(4096, 4), memory=2.0)
    policy.classes.reused[0, 0] = 8.0
    policy.computed = 2 * 4096
    begin(policy)
    assert policy.classes.reused[0, 0] == pytest.approx(4.0)
