"""What must hold of every policy, tried on random traffic: the shared checks, for this package's policies and others.

Each check is a function of a policy's name and parameters; it raises `ValueError` where the policy breaks what the
check's first line claims. Traffic is small and seeded: prompts over few block ids, so that prefixes repeat, and exact
multiples of the block size among them. vLLM is not needed; the real block pool is tested elsewhere.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from vllm_sim.eviction import kernel
from vllm_sim.eviction.chains import Chains, Requests, link, reorder
from vllm_sim.eviction.compiled import is_compiled
from vllm_sim.eviction.names import OFFLINE, full_name
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import find_policy, make_policy
from vllm_sim.eviction.simulate import make_context, simulate

Params = dict[str, Any]
Check = Callable[[str, Params], None]
_BLOCK_SIZE = 4


class CheckResult(NamedTuple):
    """How a policy or a router did in a check."""

    claim: str
    error: str | None
    """None where the claim holds."""


class Cost(NamedTuple):
    """What a policy costs: seconds are of this process and this machine, so the ratio is what can be compared."""

    block_us: float
    """Microseconds for a block of a request, of cached and of evicted blocks alike."""
    over_lru: float
    """That over the same of `lru`."""


def random_requests(
    seed: int, count: int = 60, block_size: int = _BLOCK_SIZE, ids: int = 3, longest: int = 6
) -> Requests:
    """Requests of up to `longest` blocks over few ids, in three categories and under two salts."""
    draw = np.random.default_rng(seed)
    full = draw.integers(0, longest, count)
    tail = draw.integers(0, block_size, count)
    tokens = np.maximum(full * block_size + tail, 1)
    lengths = tokens // block_size
    return Requests(
        draw.integers(0, ids, lengths.sum()),
        np.concatenate([[0], np.cumsum(lengths)]),
        tokens,
        draw.integers(0, 10, count),
        draw.integers(0, 3, count),
        draw.integers(0, 2, count),
        np.cumsum(draw.exponential(1000.0, count)),
        _random_hints(draw, count),
    )


def _random_hints(draw: np.random.Generator, count: int) -> np.ndarray:
    """Half of them say nothing; [count, 4]."""
    said = [draw.integers(0, 2, count), draw.exponential(5000.0, count), draw.integers(0, 101, count)]
    hints = np.stack([*said, draw.exponential(9000.0, count)], axis=1).astype(np.float64)
    return np.where(draw.random((count, 4)) < 0.5, np.nan, hints)


def strands_no_block(policy: str, params: Params) -> None:
    """A cached block never loses its parent, and a full cache evicts."""
    for seed in range(20):
        for raw in (False, True):
            run = simulate(link(random_requests(seed), _BLOCK_SIZE, raw), policy, 8, params)
            if run.orphan_blocks or not run.evicted_blocks:
                raise ValueError(f"{run.orphan_blocks} orphans, {run.evicted_blocks} evicted blocks, traffic {seed}")


def accounts_for_every_block(policy: str, params: Params) -> None:
    """Each block that could be hit is hit, cold or missed."""
    chains = link(random_requests(0), _BLOCK_SIZE)
    run = simulate(chains, policy, 8, params)
    wrong = np.flatnonzero(run.hit + run.cold + run.missed != chains.hittable)
    if wrong.size:
        raise ValueError(f"request {wrong[0]}: the parts do not add up")


def misses_nothing_unlimited(policy: str, params: Params) -> None:
    """A cache without a limit misses and evicts nothing."""
    run = simulate(link(random_requests(1), _BLOCK_SIZE), policy, None, params)
    if run.missed.any() or run.evicted_blocks:
        raise ValueError(f"{run.missed.sum()} missed, {run.evicted_blocks} evicted blocks")


def heeds_no_names(policy: str, params: Params) -> None:
    """Other ids for the same blocks change no hit."""
    requests = random_requests(2)
    renamed = requests._replace(ids=np.array([71, 5, 1000])[requests.ids], salt=1 - requests.salt)
    _same_hits(*(simulate(link(one, _BLOCK_SIZE), policy, 9, params).hit for one in (requests, renamed)))


def repeats_itself(policy: str, params: Params) -> None:
    """The same traffic gives the same hits again."""
    chains = link(random_requests(6), _BLOCK_SIZE)
    _same_hits(*(simulate(chains, policy, 9, params).hit for _ in range(2)))


def heeds_no_future(policy: str, params: Params) -> None:
    """What comes later changes no earlier hit."""
    requests = random_requests(3)
    cut = reorder(requests, np.arange(30))
    cut.category[0] = requests.category[0] = requests.category.max()  # how many there are is part of the set-up
    _same_hits(*(simulate(link(one, _BLOCK_SIZE), policy, 9, params).hit[:30] for one in (requests, cut)))


def stays_below_the_optimum(policy: str, params: Params) -> None:
    """No policy hits more than the optimum does."""
    for seed in range(30):
        for capacity in (7, 9, 14):
            chains = link(random_requests(seed), _BLOCK_SIZE)
            own = simulate(chains, policy, capacity, params).hit.sum()
            best = simulate(chains, OFFLINE, capacity).hit.sum()
            if own > best:
                raise ValueError(f"{own} hits, the optimum {best}: traffic {seed}, {capacity} blocks")


def is_the_same_compiled(policy: str, params: Params) -> None:
    """The class gives the same hits in plain Python and compiled."""
    chains = link(random_requests(4), _BLOCK_SIZE)
    ranker = make_policy(policy, make_context(chains, policy, 8), params)
    if not is_compiled(type(ranker)):
        return
    out = np.zeros((chains.need.size, 6), np.int64)
    index = PrefixIndex(8, chains.working_set, ranker, recycle=False)
    kernel.serve.py_func(index, ranker, chains, kernel.empty_slots(8), np.arange(chains.need.size), out)
    _same_hits(out[:, kernel.HIT], simulate(chains, policy, 8, params).hit)


CHECKS: tuple[Check, ...] = (
    strands_no_block,
    accounts_for_every_block,
    misses_nothing_unlimited,
    heeds_no_names,
    repeats_itself,
    heeds_no_future,
    stays_below_the_optimum,
    is_the_same_compiled,
)


def checks_of(policy: str) -> tuple[Check, ...]:
    """The checks that a policy must pass."""
    is_online = full_name(policy) != OFFLINE
    return tuple(check for check in CHECKS if is_online or check is not heeds_no_future)


def run_checks(policy: str, params: Params | None = None) -> Iterator[CheckResult]:
    """Tries a policy, check after check.

    Args:
        policy: a name, or `module:Class`.
        params: its parameters.

    Raises:
        ValueError: there is no such policy or parameter.
    """
    make_policy(policy, make_context(link(random_requests(0), _BLOCK_SIZE), policy, 8), params)
    yield from results_of(checks_of(policy), policy, params or {})


def results_of(checks: Iterable[Check], name: str, params: Params) -> Iterator[CheckResult]:
    """Runs checks of a policy, or of a router (fleet/check.py), by its name."""
    for check in checks:
        claim = (check.__doc__ or "").partition("\n")[0].rstrip(".")
        try:
            check(name, params)
        except Exception as error:  # whatever a policy raises is its failure
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            yield CheckResult(claim, reason)
        else:
            yield CheckResult(claim, None)


def measure_cost(policy: str, params: Params | None = None, references: int | None = None) -> Cost:
    """Times a policy on made traffic that keeps evicting, after a run that compiles it.

    Args:
        policy: a name, or `module:Class`.
        params: its parameters.
        references: blocks of the requests, about; None: 200,000, and for a policy in plain Python 5,000.
    """
    plain = not is_compiled(find_policy(policy))
    count = (references or (5_000 if plain else 200_000)) // 12
    chains = link(random_requests(9, count, ids=40, longest=24), _BLOCK_SIZE)
    own, lru = (_seconds(chains, name, values) for name, values in ((policy, params or {}), ("lru", {})))
    return Cost(1e6 * own / int(chains.begins[-1]), own / lru)


def _seconds(chains: Chains, policy: str, params: Params) -> float:
    best = float("inf")
    for turn in range(4):
        start = time.perf_counter()
        simulate(chains, policy, max(30, chains.working_set // 10), params)
        if turn:
            best = min(best, time.perf_counter() - start)
    return best


def _same_hits(first: Any, second: Any) -> None:
    other = np.flatnonzero(first != second)
    if other.size:
        raise ValueError(f"request {other[0]} hits {first[other[0]]} blocks, and {second[other[0]]} otherwise")
