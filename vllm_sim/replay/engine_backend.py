"""The `engine` backend: vLLM's EngineCore in virtual time, and what is written of it.

Three ways to vLLM are here: `run_engine` steps one EngineCore a replica by the virtual clock
(engine/backends/driver.py), `run_cache` runs its cache manager alone, a request at a time, and `run_groups` takes its
cache groups and runs a compiled cache over them. Outcomes become arrays (outcome.py), in the order of rows.

When a request arrives: in an open loop at timestamp / speedup, a turn with a think time at (end of its session's
previous answer) + think_time_ms / speedup; in a closed loop as soon as fewer than `concurrency` requests are under way.
An unlimited cache has sum over requests of ceil((prompt + output) / block size) blocks, so nothing is evicted.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vllm_sim.block_rules import needed_blocks
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.chains import link
from vllm_sim.fleet.registry import find_router
from vllm_sim.garbage import no_search_for_garbage
from vllm_sim.replay.breakdown import Blocks, breakdown
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.engine_fleet import engine_fleet, with_fleet
from vllm_sim.replay.evictions import eviction_rows
from vllm_sim.replay.fleet import router_of
from vllm_sim.replay.latency import LatencyModel, check_device, copy_gb_per_s, make_latency
from vllm_sim.replay.outcome import (
    Floats,
    Groups,
    Outcome,
    Schedule,
    TierHits,
    TierTraffic,
    Totals,
    request_results,
)
from vllm_sim.replay.requests import arrivals_ms, cache_requests, categories, hints
from vllm_sim.replay.rows import SCHEMA, CacheGroup
from vllm_sim.replay.run import Loaded, Result, Watcher
from vllm_sim.replay.summary import summarise
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import TokenisedTrace
from vllm_sim.vllm_version import installed_version


def run_engine(
    loaded: Loaded,
    config: RunConfig,
    progress: Callable[[int], None],
    watcher: Watcher | None = None,
) -> Result:
    """vLLM's EngineCore in virtual time; arguments as those of `run.run`."""
    path, trace, records = loaded.path, loaded.trace, loaded.records
    assert config.model is not None  # RunConfig refuses an engine without one
    if config.latency_model == "roofline":
        check_device(config.device, config.tensor_parallel)
    planned = list(_arrivals(path, trace, records, config))
    installed_version()
    os.environ[TRACE_VARIABLE] = str(path)  # vLLM chooses its platform when it is imported
    engine = _import_engine()

    arrivals = [engine.Arrival(*arrival) for arrival in planned]
    setup = _setup(engine, trace, config, model_config(config.model))
    router = None if config.router is None else router_of(config)
    row_facts = _row_facts(engine, trace, records, config)
    settings = [
        engine.RequestSettings(record.cache_salt, record.priority or 0, record.max_tokens) for record in records
    ]
    latency: LatencyModel | None = None
    outcomes: list[Any] = []
    with ExitStack() as stack:
        drivers = []
        for _ in range(config.replicas):  # all before one is shut down, which ends more than itself
            core = engine.make_core(path, config.model, setup, row_facts)
            stack.callback(core.shutdown)
            engine.use_stored_hashes(core, trace, [record.cache_salt for record in records])
            latency = make_latency(
                config.latency_model,
                core.model_executor.work,
                config.device,
                config.latency_table,
                config.tensor_parallel,
                config.host_overhead_ms,
            )
            drivers.append(
                engine.Driver(
                    core,
                    trace,
                    None if latency is None else latency.step_ms,
                    settings,
                    config.concurrency if router is None else None,
                    progress if router is None else _silent,
                    None if watcher is None else watcher.step,
                    config.attribution,
                    config.plain_steps,
                    unit_tokens=config.block_size,
                    reaches=() if latency is None else latency.reaches,
                )
            )
        driver, groups = drivers[0], drivers[0].groups
        fleet = None if router is None else engine_fleet(drivers, router, loaded, config, progress)
        for one in (driver if fleet is None else fleet).run(arrivals):
            outcomes.append(one)
            if watcher is not None:
                result = next(request_results(_outcome([one], loaded, config, groups)))
                watcher.request(msgspec.structs.replace(result, row=one.row))
    outcomes.sort(key=lambda one: one.row)
    steps = "sparse" if driver.plain_reason is None else f"plain: {driver.plain_reason}"
    outcome = replace(_outcome(outcomes, loaded, config, groups), steps=steps, latency=latency)
    tiers = [driver.tier.facts() for driver in drivers if driver.tier is not None]
    if tiers:
        outcome = replace(outcome, traffic=_traffic(tiers))
    ledgers = [driver.ledger for driver in drivers if driver.ledger is not None]
    if fleet is not None:
        outcome = with_fleet(outcome, fleet, ledgers, config)
    elif ledgers:
        ledger = ledgers[0]
        totals = Totals(ledger.working_set_blocks, ledger.evicted_blocks, ledger.orphan_blocks)
        files = {
            "evictions.jsonl": eviction_rows(ledger.evictions, records),
            "blocks.jsonl": [{"schema": SCHEMA} | row for row in ledger.lifetime_rows()],
        }
        outcome = replace(outcome, totals=totals, files=files)
    ran = msgspec.structs.replace(
        config,
        max_model_len=setup.max_model_len,
        max_num_batched_tokens=setup.max_num_batched_tokens,
        offload_gbps=setup.tier_gb_per_s,
    )
    more = {"policy_future": "order of rows"} if config.policy == "belady" else {}
    return Result(summarise(ran, path.name, trace.sha256, outcome, arrival=_arrival(config), **more), outcome)


def _silent(done: int) -> None:
    """The progress of one engine of several says nothing."""


def run_cache(loaded: Loaded, config: RunConfig, progress: Callable[[int], None]) -> Result:
    """The `blockpool` backend of models with several cache groups: vLLM's cache manager alone, a request at a time.

    Arguments as those of `run.run`.
    """
    path, trace, records = loaded.path, loaded.trace, loaded.records
    assert config.model is not None  # its groups are needed
    installed_version()
    os.environ[TRACE_VARIABLE] = str(path)
    engine = _import_engine()
    from vllm_sim.engine.backends.sequence import SequentialCache

    setup = _setup(engine, trace, config, model_config(config.model))
    core = engine.make_core(path, config.model, setup, _row_facts(engine, trace, records, config))
    with ExitStack() as stack:
        stack.callback(core.shutdown)
        settings = [engine.RequestSettings(record.cache_salt) for record in records]
        cache = SequentialCache(core, trace, settings, config.block_size)
        outcomes = cache.run(progress)
    outcome = _outcome(outcomes, loaded, config, cache.groups)
    totals = Totals(cache.ledger.working_set_blocks, cache.ledger.evicted_blocks, cache.ledger.orphan_blocks)
    outcome = replace(outcome, totals=totals, schedule=None)
    return Result(summarise(config, path.name, trace.sha256, outcome), outcome)


def run_groups(loaded: Loaded, config: RunConfig, progress: Callable[[int], None]) -> Result:
    """The `fast` backend of models with several cache groups: their groups by vLLM, the cache itself compiled.

    Arguments as those of `run.run`.
    """
    path, trace, records = loaded.path, loaded.trace, loaded.records
    assert config.model is not None  # its groups are needed
    installed_version()
    os.environ[TRACE_VARIABLE] = str(path)
    from vllm_sim.engine.backends import driver as engine
    from vllm_sim.engine.backends.compiled_groups import compiled_cache

    lru = msgspec.structs.replace(config, policy="lru", policy_params={})  # of the engine its groups are read alone
    core = engine.make_core(path, config.model, _setup(engine, trace, lru, model_config(config.model)))
    with ExitStack() as stack:
        stack.callback(core.shutdown)
        cache = compiled_cache(core, config.block_size)
    requests = cache_requests(trace, records, config.block_size)
    chains = link(requests, config.block_size)
    outcomes, totals = cache.run(requests, chains, config.policy, config.policy_params, config.seed)
    progress(len(records))
    outcome = replace(_outcome(outcomes, loaded, config, cache.groups), totals=Totals(*totals), schedule=None)
    return Result(summarise(config, path.name, trace.sha256, outcome), outcome)


def _import_engine() -> Any:
    """The module that drives the engine. No garbage is looked for while it imports vLLM: what that makes is kept."""
    with no_search_for_garbage():
        from vllm_sim.engine.backends import driver
    return driver


def _outcome(outcomes: Sequence[Any], loaded: Loaded, config: RunConfig, groups: Any) -> Outcome:
    """What the driver says (`RowOutcome`, `GroupFacts`), as arrays, in the order given."""
    rows = [one.row for one in outcomes]
    prompt = np.array(loaded.trace.prompt_lengths[rows], np.int64)
    found = [one.admission for one in outcomes]
    parts = evicted_by = allocated = tier = None
    again = np.zeros(len(rows), np.int64)
    if config.attribution:
        blocks = np.array(
            [(one.hit_blocks, one.hit_generated_blocks, one.cold_blocks, one.evicted_blocks) for one in found], np.int64
        ).reshape(-1, 4)
        less = np.array([(one.window_blocks, one.alignment_blocks) for one in found], np.int64).reshape(-1, 2)
        size = config.block_size if groups is None else groups.unit_tokens
        parts = breakdown(Blocks(*blocks.T, *(() if groups is None else less.T)), prompt, size)
        if config.kv_offloading_size is not None:
            names = ("external_blocks", "tier_evicted_blocks", "tier_pending_blocks", "tier_never_blocks")
            tier = TierHits(*(np.array([getattr(one, name) for one in found], np.int64) * size for name in names))
        evicted_by = np.array([-1 if one.evicted_by is None else int(one.evicted_by) for one in found], np.int64)
        allocated = np.array([one.allocated_blocks for one in found], np.int64)
        again = np.array([one.readmission_hit_tokens for one in found], np.int64)
    return Outcome(
        records=[loaded.records[row] for row in rows],
        labels=loaded.labels,
        block_size=config.block_size if groups is None else groups.unit_tokens,
        prompt_tokens=prompt,
        output_tokens=np.array([one.output_tokens for one in outcomes], np.int64),
        rejected=np.array([one.rejected for one in outcomes], np.bool_),
        parts=parts,
        evicted_by=evicted_by,
        blocks_allocated=allocated,
        totals=None,
        retokenised=[loaded.retokenised[row] for row in rows],
        schedule=Schedule(
            preemptions=np.array([one.preemptions for one in outcomes], np.int64),
            readmission_hit_tokens=again,
            arrival_ms=np.array([one.arrival_ms for one in outcomes]),
            first_scheduled_ms=_times(outcomes, "first_scheduled_ms"),
            first_token_ms=_times(outcomes, "first_token_ms"),
            end_ms=_times(outcomes, "end_ms"),
        ),
        groups=None if groups is None else _groups(groups, found),
        tier=tier,
    )


def _traffic(tiers: Sequence[Any]) -> TierTraffic:
    """What went to and from CPU memory, of all replicas (`engine.backends.tier_ledger.TierFacts`)."""
    chunks, stored, loaded, unused, stall_ms = zip(*tiers, strict=True)
    return TierTraffic(
        sum(chunks), sum(stored), sum(loaded), None if None in unused else sum(unused), round(sum(stall_ms), 3)
    )


def _groups(facts: Any, found: Sequence[Any]) -> Groups:
    """What the driver says of several cache groups, and which group each request missed first in."""
    missed = [-1 if one is None or one.missed_group is None else one.missed_group for one in found]
    groups = [CacheGroup(**group._asdict()) for group in facts.groups]
    return Groups(groups, facts.hit_alignment_tokens, facts.capacity_tokens, np.array(missed, np.int64))


def _times(outcomes: Sequence[Any], name: str) -> Floats:
    return np.array([np.nan if one.rejected else getattr(one, name) for one in outcomes], np.float64)


def _arrival(config: RunConfig) -> str:
    if config.concurrency is None:
        return f"open, speedup {config.speedup:g}"
    return f"closed, concurrency {config.concurrency}"


def _row_facts(engine: Any, trace: TokenisedTrace, records: Sequence[Record], config: RunConfig) -> Any:
    """What the policy may know of the rows; None for `lru`, which asks for nothing."""
    if config.policy == "lru":
        return None
    salts = [record.cache_salt for record in records]
    said = (arrivals_ms(records), hints(records))
    if config.policy != "belady":
        return engine.RowFacts(categories(records), salts, None, *said)
    requests = cache_requests(trace, records, config.block_size)
    return engine.RowFacts(requests.category, salts, link(requests, config.block_size), *said)


def _arrivals(
    path: Path, trace: TokenisedTrace, records: Sequence[Record], config: RunConfig
) -> Iterator[tuple[int, int | None, float]]:
    """(row, row whose answer it waits for, time): when each row arrives.

    Open loop: at its timestamp; a turn with a think time that long after its session's previous answer. Closed loop:
    as soon as a place is free, in the order of rows, and not before its session's previous answer.
    """
    last_row: dict[Any, int] = {}
    for row, record in enumerate(records):
        previous = last_row.get(record.session_id) if record.session_id is not None else None
        if record.session_id is not None:
            last_row[record.session_id] = row
        if config.concurrency is not None:
            yield row, previous, 0.0
        elif previous is not None and record.think_time_ms is not None:
            yield row, previous, record.think_time_ms / config.speedup
        elif record.timestamp is not None:
            yield row, None, record.timestamp / config.speedup
        else:
            raise TraceError(path, int(trace.lines[row]), "no timestamp, which an open loop needs; or --concurrency N")


def model_config(model: str) -> dict[str, Any]:
    """The config.json of a model's folder."""
    path = Path(model) / "config.json"
    if not path.is_file():
        raise ValueError(f"{model} holds no config.json; allowed: a folder as `vllm-sim model export` builds it")
    return json.loads(path.read_text(encoding="utf-8"))


def _setup(engine: Any, trace: TokenisedTrace, config: RunConfig, model: dict[str, Any]) -> Any:
    lengths = (trace.prompt_lengths + trace.response_lengths).tolist()
    capacity = config.replica_blocks
    if capacity is None:  # all requests at once have room, so nothing is evicted
        capacity = sum(needed_blocks(length, config.block_size) for length in lengths)
    return engine.Setup(
        capacity_blocks=capacity,
        block_size=config.block_size,
        max_model_len=max(lengths) + 1 if config.max_model_len is None else config.max_model_len,
        model_positions=model.get("max_position_embeddings", 0),
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=max(config.max_num_batched_tokens, config.max_num_seqs),
        async_scheduling=config.async_scheduling,
        policy=config.policy,
        policy_params=config.policy_params,
        seed=config.seed,
        is_unlimited=config.blocks is None,
        publishes=config.router is not None and find_router(config.router).sees == "events",
        tier=_tier(config),
        tier_gb_per_s=_tier_speed(config),
        upstream=config.engine_args
        | config.scheduler_args()
        | ({} if config.tensor_parallel == 1 else {"tensor_parallel_size": config.tensor_parallel}),
    )


def _tier(config: RunConfig) -> dict[str, Any] | None:
    """The extra configuration of vLLM's OffloadingConnector; None: no blocks are in CPU memory."""
    if config.kv_offloading_size is None:
        return None
    more: dict[str, Any] = {"block_size": config.offload_block_size}
    if config.offload_store_threshold > 1:  # 1 is upstream's word for none
        more["store_threshold"] = config.offload_store_threshold
    if config.offload_policy not in ("lru", "arc"):
        from vllm_sim.engine import tier_policy

        tier_policy.policy_class(config.offload_policy)  # raises where there is none
        more["cache_policy_module_path"] = tier_policy.__name__
    return {
        "cpu_bytes_to_use": config.kv_offloading_size * 2**30,
        "eviction_policy": config.offload_policy,
    } | {name: value for name, value in more.items() if value is not None}


def _tier_speed(config: RunConfig) -> float | None:
    """Gigabytes a second of copies; None: they take no time, as steps do."""
    if config.kv_offloading_size is None or config.latency_model == "zero":
        return config.offload_gbps
    return config.offload_gbps or copy_gb_per_s(config.device)
