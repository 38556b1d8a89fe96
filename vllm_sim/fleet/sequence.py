"""A fleet without a schedule: requests one after the other, each served whole by the replica that a router chooses.

A request has ended before the next one arrives, so nothing is outstanding when a router chooses. So that routers which
look at loads have something to look at, the last IN_FLIGHT requests for each replica of the fleet count as outstanding,
wherever they went: a fleet that always has so many in flight, all equally long. Time is the trace's timestamps: events
of a request are known to the router `delay_ms` after its arrival.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from vllm_sim.eviction.chains import Array, Chains
from vllm_sim.eviction.simulate import BlockEvents, Run, run_of
from vllm_sim.fleet.registry import chosen_by
from vllm_sim.fleet.router import Replica, RoutedRequest, Router

IN_FLIGHT = 8
"""Requests for each replica."""


class BlockCache(Protocol):
    """The cache of a replica: eviction.simulate.SimulatedCache, engine.backends.blockpool.PoolCache."""

    @property
    def evicted_blocks(self) -> int: ...

    @property
    def orphan_blocks(self) -> int: ...

    def serve(self, rows: Array) -> None: ...

    def hit_blocks(self, row: int) -> int: ...

    def take_events(self) -> BlockEvents: ...


MakeCache = Callable[[Array | None, Array], BlockCache]
"""Makes an empty cache: from the rows that it will serve (None: not known), and from what it writes into, [n, 6]."""


class Calls(NamedTuple):
    """What a router may know of the requests besides their blocks."""

    arrival_ms: npt.NDArray[np.float64] | None
    """[n]; None: not known."""
    prompt_tokens: Array
    """[n]."""
    session: Sequence[str | int | None]


class FleetRun(NamedTuple):
    """What a fleet did."""

    run: Run
    """Of all requests; its orphan_blocks are those of the replica with most."""
    replica: Array
    """[n], which served each request."""
    evicted_blocks: list[int]
    """By each replica."""


class _News(NamedTuple):
    """Events on their way to the router."""

    known_ms: float
    replica: int
    events: BlockEvents


def run_fleet(
    make_cache: MakeCache, chains: Chains, calls: Calls, router: Router, capacity: int | None, threads: int = 1
) -> FleetRun:
    """Runs the requests through a fleet.

    Args:
        make_cache: of a replica.
        chains: the requests' blocks.
        calls: what else is known of them.
        router: chooses replicas; if it sees requests alone it chooses all of them before any is served.
        capacity: blocks of a replica, None: as many as are needed.
        threads: that serve a replica each, where the router sees requests alone; so many caches are in memory.

    Raises:
        ValueError: the router chose no replica, or its delay needs times that the trace does not have.
    """
    if router.delay_ms and calls.arrival_ms is None:
        raise ValueError(f"delay_ms is {router.delay_ms}, and a row has no timestamp; allowed: 0, or backend engine")
    out = np.zeros((chains.need.size, 6), np.int64)
    if router.sees == "requests":
        chosen = _route(chains, calls, router, [])

        def serve(number: int) -> tuple[int, int]:
            rows = np.flatnonzero(chosen == number)
            cache = make_cache(rows, out)
            cache.serve(rows)
            return cache.evicted_blocks, cache.orphan_blocks

        with ThreadPoolExecutor(threads) as pool:
            counts = list(pool.map(serve, range(router.replicas)))
    else:
        caches = [make_cache(None, out) for _ in range(router.replicas)]
        chosen = _route(chains, calls, router, caches)
        counts = [(cache.evicted_blocks, cache.orphan_blocks) for cache in caches]
    evicted, orphans = zip(*counts, strict=True)
    rejected = np.zeros(chosen.size, np.bool_) if capacity is None else chains.need > capacity
    return FleetRun(run_of(out, rejected, sum(evicted), max(orphans)), chosen, list(evicted))


def _route(chains: Chains, calls: Calls, router: Router, caches: Sequence[BlockCache]) -> Array:
    """Which replica each request goes to; if there are caches it is served at once. Returns [n]."""
    replicas = [Replica(number) for number in range(router.replicas)]
    if router.sees == "caches":
        for replica, cache in zip(replicas, caches, strict=True):
            replica.look = partial(_look, cache)
    flying: deque[tuple[Replica, int]] = deque()
    news: deque[_News] = deque()
    chosen, now_ms = np.zeros(chains.need.size, np.int64), 0.0
    arrivals = None if calls.arrival_ms is None else calls.arrival_ms.tolist()
    prompt_tokens = calls.prompt_tokens.tolist()
    begins, prompts = chains.begins.tolist(), chains.prompt.tolist()
    for row, tokens in enumerate(prompt_tokens):
        if arrivals is not None:
            now_ms = max(now_ms, arrivals[row])
        while news and news[0].known_ms <= now_ms:
            tell(router, news[0].replica, news.popleft().events)
        blocks = chains.nodes[begins[row] : min(begins[row] + prompts[row], begins[row + 1])]
        request = RoutedRequest(row, now_ms, tokens, blocks, calls.session[row])
        number = chosen[row] = chosen_by(router, request, replicas)
        if len(flying) == IN_FLIGHT * len(replicas):
            replica, ended = flying.popleft()
            replica.outstanding_requests -= 1
            replica.outstanding_tokens -= ended
        replicas[number].outstanding_requests += 1
        replicas[number].outstanding_tokens += tokens
        flying.append((replicas[number], tokens))
        if caches:
            caches[number].serve(np.array([row]))
            if router.sees == "events":
                news.append(_News(now_ms + router.delay_ms, number, caches[number].take_events()))
    return chosen


def _look(cache: BlockCache, request: RoutedRequest) -> int:
    return cache.hit_blocks(request.row)


def tell(router: Router, replica: int, events: BlockEvents) -> None:
    """Tells a router what a replica published: what was removed made room for what was stored."""
    router.removed(replica, events.removed)
    router.stored(replica, events.stored)
