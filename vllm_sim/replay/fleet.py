"""A fleet of the backends without a schedule: caches of a router, one request after the other."""

from collections.abc import Sequence
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any

import numpy as np

from vllm_sim.eviction.compiled import is_compiled
from vllm_sim.eviction.names import OFFLINE
from vllm_sim.eviction.registry import find_policy
from vllm_sim.fleet.registry import find_router, make_router
from vllm_sim.fleet.router import Router, RouterContext
from vllm_sim.fleet.sequence import Calls, FleetRun, run_fleet
from vllm_sim.provenance import load_entry
from vllm_sim.replay.backends import CACHES
from vllm_sim.replay.config import RunConfig
from vllm_sim.trace.record import Record

if TYPE_CHECKING:
    from vllm_sim.replay.run import Linked


def router_of(config: RunConfig) -> Router:
    """The router of a fleet.

    Raises:
        ValueError: there is no such router or parameter, or it does not go with the policy.
    """
    assert config.router is not None  # of several replicas
    sees = find_router(config.router).sees
    if config.policy == OFFLINE and config.backend == "engine":
        raise ValueError(
            f"policy {OFFLINE} must know before the run which requests a replica serves, and in the engine a router "
            "chooses as the run goes; allowed: backend fast, blockpool, or another policy"
        )
    if config.policy == OFFLINE and sees != "requests":
        raise ValueError(
            f"policy {OFFLINE} must know before the run which requests a replica serves, and router {config.router} "
            f"looks at {sees}; allowed: a router that looks at requests alone"
        )
    context = RouterContext(config.replicas, config.block_size, config.seed)
    return make_router(config.router, context, config.router_params)


def serve_fleet(linked: "Linked", records: Sequence[Record], config: RunConfig) -> FleetRun:
    """What the replicas of `fast` or `blockpool` make of requests.

    Raises:
        ValueError: as `router_of` and `run_fleet`.
    """
    return run_caches(linked, records, config, router_of(config))


def run_caches(linked: "Linked", records: Sequence[Record], config: RunConfig, router: Router) -> FleetRun:
    """As `serve_fleet`, with a given router."""
    kind: Any = load_entry(CACHES[config.backend])

    def make_cache(rows: Any, out: Any) -> Any:
        return kind(linked.chains, config.policy, config.replica_blocks, config.policy_params, config.seed, rows, out)

    times = [record.timestamp for record in records]
    calls = Calls(
        arrival_ms=None if None in times else np.array(times, np.float64),
        prompt_tokens=linked.requests.prompt_tokens,
        session=[record.session_id for record in records],
    )
    return run_fleet(make_cache, linked.chains, calls, router, config.replica_blocks, _threads(config))


def _threads(config: RunConfig) -> int:
    """How many replicas are served at once: one a core where compiled code serves them, which does not hold Python's
    lock; one in a process of a sweep, whose runs have the cores."""
    if config.backend != "fast" or not is_compiled(find_policy(config.policy)) or parent_process() is not None:
        return 1
    from joblib import cpu_count

    return int(cpu_count())
