"""What study three runs, read from one TOML file, and what its rows mean.

Files under results/, JSON lines, in the plan's order: routing.jsonl of the backend `fast`, routing_engine.jsonl. A row
is one run, of one trace: a mix under one of its seeds, or a trace of hash ids. Every row has what ran, as in
summary.jsonl (trace, trace_sha256, backend, policy, policy_params, capacity_blocks, capacity_tokens, block_size,
raw_blocks, seed; and of several replicas replicas, router, router_params), and

    key, code           the point of the plan over this trace, and a fingerprint of the code that made the row
    experiment          see below
    mix, mix_seed       the mix, and which of its seeds (0: the configuration's own); or the hash trace's name, and 0
    capacity            of the whole fleet, as the TOML file says it: a share of the trace's own working set
    requests, rejected_requests, prompt_tokens, token_hit_rate
    imbalance           prompt tokens that the busiest replica computed / the mean of the replicas; 1: even
    quick, data         as in study two

Seeds of a mix draw its arrivals, its pauses and its sessions out of one pool; what readers of rows call an interval is
Student's over the seeds (numbers.py). A trace of hash ids has no seeds: there NAME_ci95 is the 95 % interval of NAME,
by resampling sessions, or requests where there are none. Its blocks are those of its ids, its rules are vLLM's.

    fleet       A row a capacity, number of replicas, router and policy. gain_over_lru: token hit rate over that of LRU
                after the same router; gain_over_round_robin: over that of round robin under the same policy. Under LRU
                also optimum_hit_rate: `belady` in each replica, each request where this run sent it. One replica has
                one row a policy, without a router.
    ladder      steps: shares of the prompt tokens, by the steps of replay/ladder.py. They and the token hit rate are 1.
    stale       delay_ms: of KV events, by the trace's timestamps; gain_over_fresh: over the same router without delay.
    fleet_engine  In virtual time: load, seconds, warmup_s and warmup_requests, as in the rows of study two; arrival,
                device, ttft_ms_p50, ttft_ms_p99, tpot_ms_p50, tpot_ms_p99, e2e_ms_p50, e2e_ms_p99,
                output_tokens_per_s, preemptions; and steps, with those of the engine. The capacity is a share of the
                whole mix's working set. One seed; _ci95 by resampling sessions.
"""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from milestone3_code.study.build import seeded
from milestone3_code.study.plan import LIST, TABLES, hash_block_size, kept, timing_of
from milestone3_code.study.study import MAIN_BLOCK, Study, Timing
from vllm_sim.fleet.names import DEFAULT
from vllm_sim.workloads.tables import SWITCH, TomlTable, choice, read_toml, whole

RUNS, ENGINE = "routing.jsonl", "routing_engine.jsonl"
MAIN_CAPACITY, MAIN_REPLICAS = "10%", 4
EXPERIMENTS = ("fleet", "ladder", "stale", "fleet_engine")


class Point(NamedTuple):
    """One row of the plan."""

    experiment: str
    mix: str
    mix_seed: int
    block_size: int
    capacity: str
    replicas: int
    router: str
    policy: str
    delay_ms: float | None = None
    """Of KV events; None: the router's own."""
    timing: Timing | None = None
    """Of the engine."""

    @property
    def file(self) -> str:
        """That gets its row."""
        return ENGINE if self.experiment == "fleet_engine" else RUNS

    @property
    def trace(self) -> str:
        """The mix's name under its seed."""
        return seeded(self.mix, self.mix_seed)


class Size(NamedTuple):
    """How much a plan runs."""

    mixes: tuple[str, ...]
    seeds: int


def size_of(plan: Path, quick: bool) -> Size:
    """The mixes of a plan, and how many seeds each has."""
    top = read_toml(plan)
    table = top.need_table("quick") if quick else top
    return Size(tuple(table.need("mixes", LIST)), table.need("seeds", whole(1)))


def points(plan: Path, study: Study) -> Iterator[Point]:
    """The whole plan, in the order of the rows, each point once.

    Raises:
        ConfigError: the TOML file cannot be used.
    """
    top = read_toml(plan)
    quick = top.need_table("quick") if study.quick else None
    seeds = size_of(plan, study.quick).seeds
    found: dict[Point, None] = {}
    for values in top.need("grid", TABLES):
        table = TomlTable(values, plan, "grid")
        found |= dict.fromkeys(_grid(study, table, quick, seeds))
        table.close()
    return iter(found)


def _grid(study: Study, grid: TomlTable, quick: TomlTable | None, seeds: int) -> Iterator[Point]:
    experiment = grid.need("experiment", choice(*EXPERIMENTS))

    def listed(name: str, default: Any) -> list[Any]:
        return kept(grid.get(name, LIST, [default]), quick, name)

    capacities, replicas = listed("capacities", MAIN_CAPACITY), listed("replicas", MAIN_REPLICAS)
    routers, policies = listed("routers", DEFAULT), listed("policies", "lru")
    delays = kept(grid.get("delays_ms", LIST, [None]), quick, "delays_ms", always=[None])
    seeds = min(seeds, grid.get("seeds", whole(1), seeds))
    timing = timing_of(grid, quick) if experiment == "fleet_engine" else None
    in_quick = grid.get("quick", SWITCH, True)
    if quick is not None and not in_quick:
        return
    for trace, seed in _traces(study, experiment, seeds):
        size = hash_block_size(study.trace(trace)) if _is_hash(study, trace) else MAIN_BLOCK
        for capacity, many, router, policy, delay in product(capacities, replicas, routers, policies, delays):
            chosen = router if many > 1 else DEFAULT
            yield Point(experiment, trace, seed, size, capacity, many, chosen, policy, delay, timing)


def _traces(study: Study, experiment: str, seeds: int) -> Iterator[tuple[str, int]]:
    yield from product(study.mixes, range(seeds))
    if experiment != "fleet_engine":
        yield from ((path.name, 0) for path in study.hash_traces)


def _is_hash(study: Study, trace: str) -> bool:
    return any(path.name == trace for path in study.hash_traces)
