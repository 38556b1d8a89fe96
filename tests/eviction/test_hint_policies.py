"""Policies that heed what clients say, in plain Python: whom they keep, for how long, and where that has an end."""

import math
from typing import Any

import numpy as np
import pytest

from tests.eviction.test_literature import plain_hits
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.check import random_requests
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import simulate
from vllm_sim.trace.hints import Hints


def hits(policy: str, capacity: int, rows: list[tuple[str, float, Hints]], **params: Any) -> str:
    """A 1 for each request that hits all of its blocks; a request is a chain of letters, a time in seconds, hints."""
    lengths = np.array([len(blocks) for blocks, _, _ in rows])
    zeros = np.zeros(len(rows), np.int64)
    requests = Requests(
        np.array([ord(letter) for blocks, _, _ in rows for letter in blocks], np.int64),
        np.concatenate([[0], np.cumsum(lengths)]),
        zeros + 1,
        zeros,
        zeros,
        zeros,
        np.array([1000.0 * time for _, time, _ in rows]),
        np.array([said for _, _, said in rows], np.float64),
    )
    found = plain_hits(link(requests, 1, raw=True), policy, capacity, **params)
    return "".join(str(int(hit == length)) for hit, length in zip(found, lengths.tolist(), strict=True))


NOTHING = Hints()
SOON, LATER, OVER = Hints(next_turn_ms=10_000), Hints(next_turn_ms=60_000), Hints(session_end=1)
BRIEF = Hints(retention_priority=80, retention_ms=1500)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # a comes back in 10 s, and stays for 15: b goes. Under LRU a goes.
        ([("a", 0, SOON), ("b", 1, NOTHING), ("c", 2, NOTHING), ("a", 10, NOTHING)], "0001"),
        ([("a", 0, NOTHING), ("b", 1, NOTHING), ("c", 2, NOTHING), ("a", 10, NOTHING)], "0000"),
        # a did not come back: its time is over before b's, which was used at 16 s.
        ([("a", 0, SOON), ("b", 16, NOTHING), ("c", 17, NOTHING), ("b", 18, NOTHING)], "0001"),
        # Both are to live: what comes back last goes.
        ([("a", 0, LATER), ("b", 1, SOON), ("c", 2, SOON), ("b", 10, NOTHING)], "0001"),
        # b is over, and goes before the older a.
        ([("a", 0, NOTHING), ("b", 1, OVER), ("c", 2, NOTHING), ("a", 3, NOTHING)], "0001"),
    ],
    ids=["kept", "nothing said", "past its time", "last", "over"],
)
def test_ttl_keeps_what_comes_back_and_evicts_first_what_is_over(
    rows: list[tuple[str, float, Hints]], expected: str
) -> None:
    assert hits("ttl", 2, rows) == expected


def test_ttl_keeps_what_a_session_that_is_over_shared_with_others() -> None:
    rows = [("sa", 0.0, OVER), ("sb", 1.0, OVER), ("xyz", 2.0, NOTHING), ("s", 3.0, NOTHING)]
    assert hits("ttl", 4, rows) == "0001"
    assert hits("ttl", 4, [rows[0], rows[2], ("w", 2.5, NOTHING), rows[3]]) == "0000"


def test_ttl_keeps_nothing_for_longer_than_it_is_configured_to() -> None:
    rows = [("a", 0, Hints(next_turn_ms=1e9)), ("b", 400, NOTHING), ("c", 401, NOTHING), ("b", 402, NOTHING)]
    assert hits("ttl", 2, rows) == "0001"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # The order of TensorRT-LLM: 10 goes before what nobody speaks of, and that before 80.
        ([("a", 0, Hints(retention_priority=80)), ("b", 1, NOTHING), ("c", 2, NOTHING), ("a", 3, NOTHING)], "0001"),
        ([("a", 0, NOTHING), ("b", 1, Hints(retention_priority=10)), ("c", 2, NOTHING), ("a", 3, NOTHING)], "0001"),
        # The priority of a ends after 1.5 s: it goes at 2 s, as the one that was used the longest time ago.
        ([("a", 0, BRIEF), ("b", 1, NOTHING), ("c", 2, NOTHING), ("b", 3, NOTHING)], "0001"),
    ],
    ids=["high", "low", "past its time"],
)
def test_priority_evicts_from_the_lowest_for_as_long_as_it_is_said(
    rows: list[tuple[str, float, Hints]], expected: str
) -> None:
    assert hits("priority", 2, rows) == expected


def test_priority_gives_no_more_than_a_share_to_those_who_ask_for_more() -> None:
    greedy = [(letter, float(i), Hints(retention_priority=100)) for i, letter in enumerate("abcd")]
    quiet = [("x", 5.0, NOTHING), ("y", 6.0, NOTHING), ("x", 7.0, NOTHING), ("y", 8.0, NOTHING)]
    assert hits("priority", 4, greedy + quiet) == "00000011"
    assert hits("priority", 4, greedy + quiet, share=1.0) == "00000000"


def quiet_and_liar(said: Hints) -> tuple[Chains, np.ndarray]:
    """Sessions that come back and say nothing, and a client whose calls never come back; which are the calls."""
    draw = np.random.default_rng(0)
    rows = [(call + 0.5, True, [10**7 + 100 * call + block for block in range(4)]) for call in range(2000)]
    for session in range(150):
        time = draw.uniform(0, 2000)
        for turn in range(6):
            rows.append((time, False, [1000 * (session + 1) + block for block in range(4 * (turn + 1))]))
            time += draw.lognormal(math.log(30), 0.8)
    rows.sort(key=lambda row: row[0])
    lengths, zeros = np.array([len(blocks) for *_, blocks in rows]), np.zeros(len(rows), np.int64)
    requests = Requests(
        np.concatenate([blocks for *_, blocks in rows]),
        np.concatenate([[0], np.cumsum(lengths)]),
        lengths,
        zeros,
        zeros,
        zeros,
        np.array([1000 * time for time, *_ in rows]),
        np.array([said if lies else NOTHING for _, lies, _ in rows], np.float64),
    )
    return link(requests, 1, raw=True), np.array([lies for _, lies, _ in rows])


@pytest.mark.parametrize("blocks", [100, 200, 400])
def test_who_lies_takes_little_from_those_who_say_nothing(blocks: int) -> None:
    def quiet(policy: str, said: Hints = NOTHING, blocks: int = blocks) -> int:
        chains, lies = quiet_and_liar(said)
        return int(simulate(chains, policy, blocks).hit[~lies].sum())

    lru = quiet("lru")
    for said in (Hints(session_end=0, next_turn_ms=60_000), Hints(session_end=0, next_turn_ms=1000)):
        assert quiet("ttl", said) > 0.75 * lru
        assert quiet("hybrid", said) > max(0.97 * quiet("hybrid"), lru)
    # Nearly as under LRU in the half that `priority` leaves them.
    assert quiet("priority", Hints(retention_priority=100)) > 0.9 * quiet("lru", blocks=blocks // 2)


@pytest.mark.parametrize("policy", ["ttl", "priority"])
def test_without_hints_it_is_lru(policy: str) -> None:
    chains = link(random_requests(3)._replace(hints=None), 4)
    assert plain_hits(chains, policy, 9) == plain_hits(chains, "lru", 9)


@pytest.mark.parametrize(
    ("policy", "params", "message"),
    [
        ("ttl", {"slack": -1}, "slack is -1"),
        ("ttl", {"most_ms": math.nan}, "most_ms is nan"),
        ("priority", {"share": 2}, "share is 2; allowed: 0 to 1"),
    ],
)
def test_a_parameter_out_of_range_is_refused(policy: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_policy(policy, PolicyContext(10, 10), params)
