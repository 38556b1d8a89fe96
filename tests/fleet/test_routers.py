"""Each router's rule, step by step."""

from collections.abc import Sequence

import numpy as np
import pytest

from vllm_sim.fleet.registry import find_router, make_router
from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext

BLOCK = 16


def make(name: str, replicas: int = 3, **params: float) -> Router:
    return make_router(name, RouterContext(replicas, BLOCK), params)


def ask(router: Router, blocks: Sequence[int], loads: Sequence[int] = (0, 0, 0), session: str | None = None) -> int:
    replicas = [Replica(number, load, load * 100) for number, load in enumerate(loads)]
    tokens = len(blocks) * BLOCK + 5
    return router.choose(RoutedRequest(0, 0.0, tokens, np.array(blocks, np.int64), session), replicas)


def test_round_robin_takes_turns() -> None:
    router = make("round_robin")
    assert [ask(router, []) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_random_reaches_all_and_repeats_itself() -> None:
    first, again = make("random"), make("random")
    chosen = [ask(first, []) for _ in range(50)]
    assert set(chosen) == {0, 1, 2}
    assert chosen == [ask(again, []) for _ in range(50)]


def test_the_least_loaded_has_the_fewest_tokens_outstanding() -> None:
    assert ask(make("least_loaded"), [1], (4, 2, 3)) == 1
    assert ask(make("least_loaded"), [1], (2, 2, 3)) == 0


def test_a_session_stays_and_a_request_without_one_goes_where_there_is_least_to_do() -> None:
    router = make("session")
    for name in "abcdef":
        assert len({ask(router, [1], loads, name) for loads in ((0, 0, 9), (9, 0, 0))}) == 1
    assert len({ask(router, [1], session=str(number)) for number in range(30)}) == 3
    assert ask(router, [1], (1, 1, 0)) == 2


def test_one_beginning_goes_to_one_replica_until_that_has_too_much() -> None:
    router = make("prefix_hash", blocks=2)
    home = ask(router, [7, 8, 9])
    assert {ask(router, [7, 8, tail]) for tail in range(20)} == {home}
    assert len({ask(router, [head, 100 + head]) for head in range(30)}) == 3
    busy = [0, 0, 0]
    busy[home] = 6
    assert ask(router, [7, 8, 9], busy) != home
    assert ask(router, [], (1, 0, 1)) == 1


def test_a_tree_of_what_was_sent_knows_the_longest_prefix_and_forgets() -> None:
    router = make("prefix_tree", tree_blocks=6)
    assert ask(router, [1, 2, 3]) == 0  # nothing was sent: the smallest tree
    assert ask(router, [5, 6]) == 1
    assert ask(router, [1, 2, 9]) == 0
    assert ask(router, [7, 8]) == 2  # now there are 8 blocks: the tails of what was used longest ago are forgotten
    assert ask(router, [1, 2, 4]) == 0
    assert router._sizes == [4, 0, 2]  # type: ignore[attr-defined]
    assert ask(router, [1, 2], (70, 1, 0)) == 2  # uneven loads


def test_events_find_the_longest_prefix_and_a_copy_more_must_be_removed_once_more() -> None:
    router = make("kv_events")
    router.stored(1, [1, 2])
    router.stored(2, [1, 2, 3])
    router.stored(2, [3])
    assert ask(router, [1, 2, 3]) == 2
    router.removed(2, [3])
    assert ask(router, [1, 2, 3]) == 2
    router.removed(2, [3])
    assert ask(router, [1, 2, 3], (0, 3, 4)) == 1
    assert ask(router, [9], (5, 3, 4)) == 1
    assert ask(router, [1, *range(10, 20)], (0, 5, 5)) == 0  # a match too short for that long a prompt


def test_the_cost_is_what_is_not_cached_times_what_there_is_to_do() -> None:
    router = make("cost")
    router.stored(0, [1, 2])
    assert ask(router, [1, 2, 3], (1, 0, 0)) == 0  # 21 x 2 against 53 x 1
    assert ask(router, [1, 2, 3], (2, 0, 0)) == 1  # 21 x 3 against 53 x 1


@pytest.mark.parametrize(
    ("name", "params", "reason"),
    [
        ("nearest", {}, "router is 'nearest'; allowed: round_robin, random"),
        ("nowhere:Class", {}, "cannot be loaded"),
        ("vllm_sim.fleet.router:Replica", {}, "not a subclass of vllm_sim.fleet.router.Router"),
        ("session", {"blocks": 3}, "router session has no parameter 'blocks'; allowed: none"),
        ("prefix_hash", {"load": 0.5}, "load is 0.5; allowed: 1 or more"),
        ("prefix_hash", {"blocks": 0}, "blocks is 0; allowed: 1 or more"),
        ("prefix_tree", {"match": 2}, "match is 2; allowed: 0 to 1"),
        ("kv_events", {"delay_ms": -1}, "delay_ms is -1; allowed: 0 or more"),
        ("kv_events", {"match": -1}, "match is -1; allowed: 0 to 1"),
    ],
)
def test_a_router_that_cannot_be_made_says_why(name: str, params: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make(name, **params)


def test_only_the_oracle_sees_caches() -> None:
    from vllm_sim.fleet.names import ROUTERS

    assert [name for name in ROUTERS if find_router(name).sees == "caches"] == ["oracle"]
