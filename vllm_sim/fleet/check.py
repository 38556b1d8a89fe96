"""What must hold of every router, tried on random traffic; for this package's routers and others.

Traffic is small and seeded: prompts over few block ids, so that prefixes repeat, some requests without a session, some
prompts without a full block. Replicas evict by LRU. vLLM is not needed.
"""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.check import Check, CheckResult, random_requests, results_of
from vllm_sim.eviction.simulate import SimulatedCache
from vllm_sim.fleet.registry import make_router
from vllm_sim.fleet.router import RouterContext
from vllm_sim.fleet.sequence import Calls, FleetRun, run_fleet

Params = dict[str, Any]
_BLOCK_SIZE, _CAPACITY = 4, 12


class RouterCost(NamedTuple):
    """What a router costs and gives on made traffic; seconds are of this machine."""

    request_us: float
    """Microseconds for a request, its cache's work included."""
    over_round_robin: float
    """That over the same of `round_robin`."""
    hit_blocks: int
    """Of four replicas."""
    round_robin_hit_blocks: int
    largest_share: float
    """Of the prompt tokens, at one of the four."""


def chooses_what_exists(router: str, params: Params) -> None:
    """Every request goes to a replica that there is."""
    for replicas in (1, 2, 5):
        _run(router, params, replicas)


def chooses_the_same_again(router: str, params: Params) -> None:
    """The same traffic gives the same choices again."""
    _same(*(_run(router, params, 3).replica for _ in range(2)))


def heeds_no_later_request(router: str, params: Params) -> None:
    """What comes later changes no earlier choice."""
    _same(_run(router, params, 3).replica[:40], _run(router, params, 3, 40).replica)


CHECKS: tuple[Check, ...] = (chooses_what_exists, chooses_the_same_again, heeds_no_later_request)


def run_router_checks(router: str, params: Params | None = None) -> Iterator[CheckResult]:
    """Tries a router, check after check.

    Args:
        router: a name, or `module:Class`.
        params: its parameters.

    Raises:
        ValueError: there is no such router or parameter.
    """
    make_router(router, RouterContext(2, _BLOCK_SIZE), params)
    yield from results_of(CHECKS, router, params or {})


def measure_router(router: str, params: Params | None = None) -> RouterCost:
    """Times a router on 2,000 requests to four replicas."""
    own, base = (_timed(name, values) for name, values in ((router, params or {}), ("round_robin", {})))
    tokens = np.bincount(own[1].replica, random_requests(0, 2000).prompt_tokens, minlength=4)
    return RouterCost(
        own[0] / 2000 * 1e6,
        own[0] / base[0],
        int(own[1].run.hit.sum()),
        int(base[1].run.hit.sum()),
        float(tokens.max() / tokens.sum()),
    )


def _timed(router: str, params: Params) -> tuple[float, FleetRun]:
    _run(router, params, 4, 50)  # compiles
    start = time.perf_counter()
    found = _run(router, params, 4, 2000)
    return time.perf_counter() - start, found


def _run(router: str, params: Params, replicas: int, count: int = 120) -> FleetRun:
    requests = random_requests(0, max(count, 120))
    chains = link(_first(requests, count), _BLOCK_SIZE)
    sessions = [None if row % 7 == 0 else row % 11 for row in range(count)]
    calls = Calls(np.arange(0.0, 20.0 * count, 20.0, dtype=np.float64), requests.prompt_tokens[:count], sessions)

    def make_cache(rows: Any, out: Any) -> SimulatedCache:
        return SimulatedCache(chains, "lru", _CAPACITY, rows=rows, out=out)

    made = make_router(router, RouterContext(replicas, _BLOCK_SIZE), params)
    return run_fleet(make_cache, chains, calls, made, _CAPACITY)


def _first(requests: Requests, count: int) -> Requests:
    begins = requests.begins[: count + 1]
    return Requests(
        requests.ids[: begins[-1]],
        begins,
        requests.prompt_tokens[:count],
        requests.output_tokens[:count],
        requests.category[:count],
        requests.salt[:count],
    )


def _same(first: Any, second: Any) -> None:
    other = np.flatnonzero(first != second)
    if other.size:
        row = other[0]
        raise ValueError(f"request {row} goes to replica {first[row]}, and to {second[row]} otherwise")
