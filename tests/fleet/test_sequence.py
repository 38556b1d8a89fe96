"""Fleets without a schedule: one replica is no fleet, both backends agree, and what a router sees is so."""

import dataclasses
from collections.abc import Sequence
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.making import settings
from vllm_sim.engine.backends.blockpool import PoolCache
from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, link
from vllm_sim.eviction.check import random_requests
from vllm_sim.eviction.simulate import SimulatedCache, simulate
from vllm_sim.fleet.names import ROUTERS
from vllm_sim.fleet.registry import make_router
from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext
from vllm_sim.fleet.routers.kv_events import KVEventsRouter
from vllm_sim.fleet.routers.oracle import OracleRouter
from vllm_sim.fleet.sequence import IN_FLIGHT, Calls, FleetRun, run_fleet
from vllm_sim.replay import fleet as replay_fleet

BLOCK = 4
CHAINS = link(random_requests(5, 120), BLOCK)


def calls(chains: Chains) -> Calls:
    count = chains.need.size
    prompt = np.asarray(random_requests(5, count).prompt_tokens)
    sessions: list[Any] = [None if row % 7 == 0 else row % 5 for row in range(count)]
    return Calls(np.arange(count) * 10.0, prompt, sessions)


def fleet(kind: Any, router: Router, policy: str = "lru", capacity: int | None = 8) -> FleetRun:
    def make(rows: Any, out: Any) -> Any:
        return kind(CHAINS, policy, capacity, None, 0, rows, out)

    return run_fleet(make, CHAINS, calls(CHAINS), router, capacity)


def router(name: str, replicas: int, **params: Any) -> Router:
    return make_router(name, RouterContext(replicas, BLOCK, seed=3), params)


def assert_equal(one: Any, other: Any) -> None:
    for field in dataclasses.fields(one):
        assert np.array_equal(getattr(one, field.name), getattr(other, field.name)), field.name


@pytest.mark.parametrize("kind", [SimulatedCache, PoolCache])
def test_a_fleet_of_one_is_one_cache_whatever_the_router(kind: Any) -> None:
    for name in ROUTERS:
        for capacity in (8, None):
            found = fleet(kind, router(name, 1), capacity=capacity)
            assert_equal(found.run, simulate(CHAINS, "lru", capacity))
            assert not found.replica.any()


@pytest.mark.parametrize("name", ROUTERS)
def test_fast_and_blockpool_agree_in_a_fleet(name: str) -> None:
    for policy in ("lru", "lfu", *(["belady"] if router(name, 3).sees == "requests" else [])):
        fast, pool = (fleet(kind, router(name, 3), policy) for kind in (SimulatedCache, PoolCache))
        assert_equal(fast.run, pool.run)
        assert fast.replica.tolist() == pool.replica.tolist()
        assert fast.evicted_blocks == pool.evicted_blocks
        assert sum(fast.evicted_blocks) == fast.run.evicted_blocks > 0


@pytest.mark.parametrize("policy", ["lru", "belady", "hybrid"])
def test_replicas_that_are_served_at_once_do_what_they_do_one_after_the_other(policy: str) -> None:
    met = Barrier(3, timeout=60)

    def make(rows: Any, out: Any) -> SimulatedCache:
        met.wait()  # all three threads are here, or the test ends
        return SimulatedCache(CHAINS, policy, 8, None, 0, rows, out)

    together = run_fleet(make, CHAINS, calls(CHAINS), router("session", 3), 8, threads=3)
    alone = fleet(SimulatedCache, router("session", 3), policy)
    assert_equal(together.run, alone.run)
    assert together.evicted_blocks == alone.evicted_blocks
    assert kernel.serve.targetoptions["nogil"]  # without it threads would wait for one another


def test_replicas_have_the_cores_unless_python_s_lock_or_a_sweep_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("joblib.cpu_count", lambda: 5)
    shared = {"replicas": 4, "router": "session"}
    assert replay_fleet._threads(settings(**shared)) == 5
    assert replay_fleet._threads(settings(backend="blockpool", **shared)) == 1
    assert replay_fleet._threads(settings(policy="tests.eviction.user_policies:MostRecent", **shared)) == 1
    monkeypatch.setattr(replay_fleet, "parent_process", lambda: object())
    assert replay_fleet._threads(settings(**shared)) == 1


class Watcher(KVEventsRouter):
    """Sends everything in turn, and notes where its index and the caches differ."""

    def __init__(self, context: RouterContext, delay_ms: float = 0.0):
        super().__init__(context, delay_ms)
        self.caches: list[Any] = []
        self.wrong = 0
        self.loads: list[tuple[int, int]] = []

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        self.loads.append(
            (sum(one.outstanding_requests for one in replicas), sum(one.outstanding_tokens for one in replicas))
        )
        held = self.index.longest(request.blocks.tolist())
        for blocks, cache in zip(held, self.caches, strict=True):
            self.wrong += min(blocks, int(CHAINS.hittable[request.row])) != cache.hit_blocks(request.row)
        return request.row % self.replicas


def watched(kind: Any, delay_ms: float) -> Watcher:
    watcher = Watcher(RouterContext(2, BLOCK), delay_ms)
    capacity = int(CHAINS.need.max())

    def make(rows: Any, out: Any) -> Any:
        watcher.caches.append(kind(CHAINS, "lru", capacity, None, 0, rows, out))
        return watcher.caches[-1]

    run_fleet(make, CHAINS, calls(CHAINS), watcher, capacity)
    return watcher


@pytest.mark.parametrize("kind", [SimulatedCache, PoolCache])
def test_an_index_of_events_finds_just_what_the_caches_would_hit(kind: Any) -> None:
    assert watched(kind, 0.0).wrong == 0
    assert watched(kind, 25.0).wrong > 0


def test_the_last_requests_of_a_fleet_count_as_outstanding() -> None:
    loads, tokens = watched(SimulatedCache, 0.0).loads, calls(CHAINS).prompt_tokens
    for row, (requests, found) in enumerate(loads):
        assert requests == min(row, 2 * IN_FLIGHT)
        assert found == tokens[max(0, row - 2 * IN_FLIGHT) : row].sum()


def test_a_router_that_does_not_say_so_sees_no_cache() -> None:
    class Peeping(OracleRouter):
        sees = "requests"

    with pytest.raises(ValueError, match="a router that looks into caches says so"):
        fleet(SimulatedCache, Peeping(RouterContext(2, BLOCK)))


class Wrong(Router):
    """Returns what it is made to."""

    chosen: Any = 2

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return self.chosen


@pytest.mark.parametrize("chosen", [2, -1, None, 0.5])
def test_a_replica_that_does_not_exist_is_refused_with_the_row(chosen: Any) -> None:
    wrong = Wrong(RouterContext(2, BLOCK))
    wrong.chosen = chosen
    with pytest.raises(ValueError, match="row 0"):
        fleet(SimulatedCache, wrong)


def test_a_delay_needs_times() -> None:
    late = router("kv_events", 2, delay_ms=5.0)
    with pytest.raises(ValueError, match=r"delay_ms is 5.0, and a row has no timestamp"):
        run_fleet(lambda *_: None, CHAINS, calls(CHAINS)._replace(arrival_ms=None), late, 8)  # type: ignore[arg-type,return-value]
