"""What `make parity` compares with: every difference between two logs of steps is found, and an empty log is one."""

import copy
from typing import Any

import pytest

from parity.compare import FIELDS, chunks_inside_output, copied_blocks, counts, differences, hits, missing
from parity.workload import TURNS, make_asks

STEPS: list[dict[str, Any]] = [
    {
        "new": [["0", 32, 40, [[1, 2, 3]]]],
        "known": [],
        "resumed": [],
        "preempted": [],
        "finished": [],
        "evicted": ["aa"],
        "copies": [[0, "load", [1, 2], [7, 8]]],
        "zeroed": [],
        "copied": ["1 to 2"],
        "tokens": {},
    },
    {
        "new": [],
        "known": [["0", 72, 20, []]],
        "resumed": [],
        "preempted": ["1"],
        "finished": ["2"],
        "evicted": [],
        "copies": [[1, "store", [3], [9]], [1, "wait"]],
        "zeroed": [3],
        "copied": [],
        "tokens": {"0": [[7], None]},
    },
]
OTHER = {
    "new": [["0", 32, 40, [[1, 2, 4]]]],
    "known": [["0", 71, 20, []]],
    "resumed": ["0"],
    "preempted": [],
    "finished": [],
    "evicted": ["ab"],
    "copies": [[0, "load", [1, 3], [7, 8]]],
    "zeroed": [4],
    "copied": ["1 to 3"],
    "tokens": {"0": [[8], None]},
}


def test_equal_logs_have_no_difference() -> None:
    assert differences(STEPS, copy.deepcopy(STEPS)) == []


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("name", FIELDS)
def test_a_difference_in_any_field_of_any_step_is_found(name: str, step: int) -> None:
    changed = copy.deepcopy(STEPS)
    changed[step][name] = OTHER[name] if changed[step][name] != OTHER[name] else [["9", 0, 1, [9]]]
    (found,) = differences(STEPS, changed)
    assert f"step {step}, {name}:" in found


def test_copies_are_counted_by_their_direction_and_waits_are_none() -> None:
    assert copied_blocks(STEPS) == {"stored_blocks": 1, "loaded_blocks": 2}


def test_every_recorded_field_is_compared() -> None:
    assert set(FIELDS) == set(STEPS[0])


def test_a_missing_last_step_is_found() -> None:
    assert differences(STEPS, STEPS[:1]) == ["2 steps, and 1 in the simulator"]


def test_comparing_nothing_is_a_difference() -> None:
    assert differences([], [])


def test_what_never_happened_is_named() -> None:
    assert missing(counts(STEPS)) == []
    assert missing(counts(STEPS[:1])) == [
        f"{name} is 0: the comparison has not seen any" for name in ("preemptions", "chunked_prefills", "output_tokens")
    ]


def test_a_resumed_prefill_is_no_chunk() -> None:
    steps = copy.deepcopy(STEPS)
    steps[1]["resumed"] = ["0"]
    assert counts(steps)["chunked_prefills"] == 0


@pytest.mark.parametrize(
    ("computed", "tokens", "is_inside"),
    [(0, 39, False), (0, 40, True), (32, 9, True), (32, 10, False), (41, 1, False)],
)
def test_a_chunk_is_inside_the_output_from_the_prompts_end_to_before_the_last_known_token(
    computed: int, tokens: int, is_inside: bool
) -> None:
    step: dict[str, Any] = {name: [] for name in FIELDS} | {"tokens": {}}
    steps = [
        step | {"new": [["0", 0, 40, [1]]], "tokens": {"0": [[7], None]}},
        step | {"known": [["0", 40, 1, []]], "tokens": {"0": [[8], None]}},
        step | {"known": [["0", computed, tokens, []]]},
    ]
    assert chunks_inside_output(steps, {"0": 40}) == is_inside


def test_hits_are_those_of_the_first_admission() -> None:
    again = copy.deepcopy(STEPS[0])
    again["new"][0][1] = 64
    assert hits([*STEPS, again]) == {"0": 32}


def test_the_same_seed_makes_the_same_requests_and_another_other_ones() -> None:
    assert make_asks(1, 70) == make_asks(1, 70) != make_asks(2, 70)


def test_a_turn_follows_the_turn_before_it() -> None:
    asks = make_asks(1, 70)
    assert len(asks) == 70 * TURNS
    for ask in asks:
        assert ask.after_row == (None if ask.row % TURNS == 0 else ask.row - 1)
