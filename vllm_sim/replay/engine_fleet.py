"""A fleet of the `engine` backend: engines of a router on one clock, and what is written of them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vllm_sim.eviction.chains import link
from vllm_sim.fleet.router import RoutedRequest, Router
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.evictions import eviction_rows
from vllm_sim.replay.outcome import Fleet, Outcome, Totals
from vllm_sim.replay.requests import cache_requests
from vllm_sim.replay.rows import SCHEMA
from vllm_sim.replay.run import Loaded


def engine_fleet(
    drivers: Sequence[Any], router: Router, loaded: Loaded, config: RunConfig, progress: Callable[[int], None]
) -> Any:
    """What drives several engines (`engine.backends.fleet.FleetDriver`).

    Args:
        drivers: of the engines (`engine.backends.driver.Driver`).
        router: chooses.
        loaded: the trace.
        config: how.
        progress: called with the number of finished requests.

    Raises:
        ValueError: the model has several cache groups, and the router sees more than requests.
    """
    from vllm_sim.engine.backends.engine_builder import number_hashes
    from vllm_sim.engine.backends.fleet import FleetDriver, Names

    if drivers[0].groups is not None and router.sees != "requests":
        raise ValueError(
            f"router {config.router} looks at {router.sees}, and layers of {config.model} do not all keep the same; "
            "allowed: a router that looks at requests alone, or a model with full attention alone"
        )
    trace, records = loaded.trace, loaded.records
    chains = link(cache_requests(trace, records, config.block_size), config.block_size)
    begins, prompts = chains.begins.tolist(), chains.prompt.tolist()

    def describe(row: int, ms: float) -> RoutedRequest:
        blocks = chains.nodes[begins[row] : begins[row] + prompts[row]]
        return RoutedRequest(row, ms, int(trace.prompt_lengths[row]), blocks, records[row].session_id)

    names = None
    if router.sees != "requests":
        salts = [record.cache_salt for record in records]
        numbers = number_hashes(drivers[0].core, trace, chains, salts)
        names = Names(numbers, {number: name for name, number in numbers.items()})
    return FleetDriver(drivers, router, describe, names, config.concurrency, progress)


def with_fleet(outcome: Outcome, fleet: Any, ledgers: Sequence[Any], config: RunConfig) -> Outcome:
    """An outcome with what is known of the replicas; without attribution there are no ledgers."""
    replica = np.array([fleet.replica_of[row] for row in range(outcome.prompt_tokens.size)], np.int64)
    evicted = [ledger.evicted_blocks for ledger in ledgers] or [None] * config.replicas
    outcome = replace(outcome, fleet=Fleet(replica, config.replica_blocks, evicted))
    if outcome.groups is not None:
        whole = outcome.groups.capacity_tokens * config.replicas
        outcome = replace(outcome, groups=outcome.groups._replace(capacity_tokens=whole))
    if not ledgers:
        return outcome
    evictions: Counter[tuple[str, str]] = Counter()
    for ledger in ledgers:
        evictions.update(ledger.evictions)
    blocks = [
        {"schema": SCHEMA, "replica": number} | row
        for number, ledger in enumerate(ledgers)
        for row in ledger.lifetime_rows()
    ]
    orphans = [ledger.orphan_blocks for ledger in ledgers]
    totals = Totals(
        len(set().union(*(ledger.hashes for ledger in ledgers))),
        sum(ledger.evicted_blocks for ledger in ledgers),
        None if None in orphans else max(orphans),
    )
    files = {"evictions.jsonl": eviction_rows(evictions, outcome.records), "blocks.jsonl": blocks}
    return replace(outcome, totals=totals, files=files)
