"""What study two runs, read from one TOML file, and what its rows mean.

Files under results/, JSON lines, in the plan's order:

    mixed.jsonl         experiments of the fast backend on the mixes `report_*`
    mixed_matrix.jsonl  evictions by owner and evictor (engine), and what they cost (fast)
    mixed_engine.jsonl  experiment `engine`: times in virtual time, roofline model of an H100
    mixed_hash.jsonl    experiment `hash_trace`: traces of hash ids given by path; only written with --hash-trace

Every row has what ran, as in summary.jsonl (trace, trace_sha256, backend, policy, policy_params, capacity_blocks,
capacity_tokens, block_size, raw_blocks, seed), and

    key, code           of its cell: the plan's point over this trace, and a fingerprint of the code that made the row
    experiment, mix     mix: even, agents, chat, scan, shift, or `all` (sums over the mixes)
    workload            the workload that runs alone; null: the whole mix
    capacity            as the TOML file says it: "2%" ... "100%" of the working set at this block size, "largest" (what
                        the largest request needs, the least everywhere), "unlimited"; of the mix unless said otherwise
    data                source "built", the mix's config_sha256, and of ShareGPT source, sha256, whole; source "drawn by
                        seed" for `random`
    quick               true: a quick run, no result

`NAME_ci95` is the 95 % interval of NAME, by resampling sessions (of few-shot: batches). Rates are token hit rates
unless named. Gains compare the same requests in two runs, each draw taking the same sessions from both.

    mix        All policies. The counts and rates of summary.jsonl without those of turns, tenants, sessions and slots;
               token_hit_rate_ci95; gain_over_lru, gain_over_lru_ci95; by_workload: {name: rates, token_hit_rate_ci95,
               gain_over_lru, gain_over_lru_ci95}. Also `lru` at "unlimited".
    alone      The same for one workload of the mix alone, without by_workload, at the mix's capacity in blocks: what is
               lost in the mix.
    loss       A row a mix, block size and capacity (policy `belady`): unlimited_hit_rate, belady_hit_rate,
               lru_hit_rate, hybrid_hit_rate; lost_to_capacity (unlimited - belady), lost_to_policy (belady - lru),
               gained_by_hybrid (hybrid - lru), each with _ci95; by_workload: {name: the same}.
    gap        A row a policy, block size and mix, and one for mix `all`, over the capacities from 5 to 50 %:
               gain_tokens and gap_tokens (sums of hit tokens over LRU, and of the optimum over LRU), gap_closed
               (their ratio) and gap_closed_ci95; capacities (list). capacity, capacity_blocks are null.
    isolation  tenants: "none" (no salt), "tenant" (a salt for each tenant of the mix), "2" ... "16" (sessions dealt to
               so many tenants), "session" (a salt for each); salts: number of different ones; token_hit_rate, cost
               (rate without salt - this rate), cost_ci95; by_workload: {name: the same}. Capacity in blocks as without.
    guarantee  hybrid against LRU: workload null or alone with capacities of its own working set; tags: "with",
               "without" (no workload, no turn), "shuffled"; block sizes 16 to 512; token_hit_rate, lru_hit_rate,
               gain_over_lru, gain_over_lru_ci95; hits_sha256 (of the hit tokens of all requests: equal means equal).
               A capacity is the largest request at least.
    ablation   variant: "default", "without NAME" (a part is off), "half NAME", "double NAME" (a constant); the values
               are in policy_params; token_hit_rate, gain_over_lru, gain_over_default, both gains with _ci95.
    cold_start A row a policy: first_hit_rate (first tenth of the requests), rest_hit_rate, both with _ci95, and with
               gain_over_lru in each: first_gain_over_lru, rest_gain_over_lru (_ci95).
    windows    kind: "shift" (mix shift: the workloads change in the middle), "scan" (mix scan), "burst" (mix even, all
               one-off calls of the second half come at once in the middle); 20 windows of equally many requests:
               hit_rates (list), gains_over_lru (list), burst_windows (list of places, empty without a burst);
               token_hit_rate, gain_over_lru.
    bytes      policy hybrid: token_hit_rate; lru_blocks (LRU's least capacity with at least this rate, by its curve),
               lru_bytes, capacity_bytes, saved_bytes (lru - hybrid), saved_share (of lru_bytes); bytes of the model's
               cache at 16 bits. saved_bytes below 0: LRU needs less.
    random     A row a traffic of random_traffic.py (seed) and capacity, in mix "all" though of no mix: lru_hit_rate,
               belady_hit_rate, gains_over_lru: {policy, or "hybrid without NAME": token hit rate over LRU's}. No
               interval: the traffics are the sample.

mixed_matrix.jsonl:

    matrix     backend engine, next to each row of mixed_engine.jsonl (same `point`): blocks by "workload", "tenant" and
               "session" (see replay/evictions.py): {by: {owner: {evictor: evicted blocks}}}
    lost       backend fast: lost_tokens: {by: {owner: {evictor: prompt tokens}}}, what the owner's requests missed
               since it had been evicted, by the request that evicted the first block of it; share_of_prompt: {by: the
               same / prompt tokens of the owner}

mixed_engine.jsonl: `point` (name in the TOML file), the engine's fields of summary.jsonl, token_hit_rate_ci95,
ttft_ms_*, tpot_ms_*, e2e_ms_* (p50, p90, p99) and output_tokens_per_s with _ci95; by_workload: {name: the same}.
`belady` takes the order of rows for the future (policy_future), which is not quite the order of the schedule.

mixed_hash.jsonl: raw blocks, all policies; part: "whole", "first" (half of the time: tuned on), "second" (reported);
the fields of `mix` without by_workload (requests resampled where there are no sessions).
"""

import inspect
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from milestone3_code.study.study import MAIN_BLOCK, Point, Study
from milestone3_code.study.view import Params
from vllm_sim.eviction.policies.hybrid import Hybrid
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.trace.files import iter_records
from vllm_sim.workloads.tables import SWITCH, TABLE, TEXT, ConfigError, Rule, TomlTable, number, read_toml, whole

SCALES = (("half", 0.5), ("double", 2.0))
QUICK_SEEDS = 10
LIST = Rule(lambda value: isinstance(value, list) and bool(value), "a list that is not empty")
TABLES = Rule(lambda value: isinstance(value, list) and all(isinstance(v, dict) for v in value), "tables [[...]]")


def mixes(plan: Path, quick: bool) -> tuple[str, ...]:
    """The mixes that a plan reports on."""
    top = read_toml(plan)
    return tuple(kept(top.need("mixes", LIST), top.need_table("quick") if quick else None, "mixes"))


def points(plan: Path, study: Study) -> Iterator[Point]:
    """The whole plan, in the order of the rows.

    Raises:
        ConfigError: the TOML file cannot be used.
    """
    top = read_toml(plan)
    quick = top.need_table("quick") if study.quick else None
    variants = list(_variants(top.need_table("hybrid")))
    for values in top.get("engine", TABLES, []):
        yield from _engine(TomlTable(values, plan, "engine"), quick)
    for values in top.need("grid", TABLES):
        yield from _grid(study, TomlTable(values, plan, "grid"), quick, variants)


def _grid(
    study: Study, grid: TomlTable, quick: TomlTable | None, variants: list[tuple[str, Params]]
) -> Iterator[Point]:
    experiment = grid.need("experiment", TEXT)
    if experiment == "hash_trace":
        names, sizes = [path.name for path in study.hash_traces], [MAIN_BLOCK]
    else:
        names = kept(grid.get("mixes", LIST, [*study.mixes]), quick, "mixes", always=["all"])
        sizes = kept(grid.get("block_sizes", LIST, [MAIN_BLOCK]), quick, "block_sizes")
    capacities = kept(grid.need("capacities", LIST), quick, "capacities")
    policies = grid.need("policies", LIST)
    policies = kept(list(POLICIES) if policies == ["all"] else policies, quick, "policies")
    details = grid.get("details", LIST, [""])
    if seeds := grid.get("seeds", whole(1), 0):
        details = [str(seed) for seed in range(min(seeds, QUICK_SEEDS) if quick else seeds)]
    grid.close()
    if experiment == "gap":
        capacities, details = [""], [" ".join(capacities)]
    for mix, block_size in product(names, sizes):
        size = hash_block_size(study.trace(mix)) if experiment == "hash_trace" else block_size
        for workload in _workloads(study, experiment, mix):
            if experiment == "guarantee" and workload and "with" not in details:
                continue  # tags matter to whole mixes only
            for detail, capacity, policy in product(details, capacities, policies):
                point = Point(experiment, mix, size, capacity, policy, (), workload, detail)
                if experiment == "ablation":
                    yield from (point._replace(detail=name, params=params) for name, params in variants)
                else:
                    yield point


def _engine(table: TomlTable, quick: TomlTable | None) -> Iterator[Point]:
    point = Point(
        "engine",
        table.need("mix", TEXT),
        capacity=table.need("capacity", TEXT),
        detail=table.need("name", TEXT),
        speedup=float(table.get("speedup", number(0, 1e6, above=True), 1.0)),
        concurrency=table.get("concurrency", whole(1)),
    )
    policies, in_quick = table.need("policies", LIST), table.get("quick", SWITCH, False)
    table.close()
    if quick is None or in_quick:
        yield from (point._replace(policy=policy) for policy in kept(policies, quick, "policies"))


def _workloads(study: Study, experiment: str, mix: str) -> list[str | None]:
    if experiment == "alone":
        return [*study.workloads(mix)]
    return [None, *study.workloads(mix)] if experiment == "guarantee" else [None]


def kept(values: list[Any], quick: TomlTable | None, name: str, always: list[Any] | None = None) -> list[Any]:
    """What a quick run keeps of a list; all of it where the run is not quick."""
    if quick is None:
        return values
    wanted = [*quick.need(name, LIST), *(always or [])]
    return [value for value in values if value in wanted]


def _variants(hybrid: TomlTable) -> Iterator[tuple[str, Params]]:
    """Ablations: the default, each part off, each constant halved and doubled."""
    defaults = {
        name: value.default for name, value in inspect.signature(Hybrid).parameters.items() if name != "context"
    }
    yield "default", ()
    without = hybrid.need_table("without")
    for name in without:
        yield f"without {name}", tuple(without.need(name, TABLE).items())
    for name in hybrid.need("constants", LIST):
        if name not in defaults:
            raise ConfigError(f"{hybrid}: constants has {name!r}; allowed: {', '.join(defaults)}")
        for word, factor in SCALES:
            value = defaults[name] * factor
            yield f"{word} {name}", ((name, int(value) if isinstance(defaults[name], int) else value),)


def hash_block_size(path: Path) -> int:
    """Tokens that an id of a trace stands for.

    Raises:
        ValueError: it is no trace of hash ids.
    """
    _, record = next(iter_records(path))
    if record.hash_ids is None or record.hash_block_size is None:
        raise ValueError(f"{path} has no hash_ids; allowed for a hash trace: rows with hash_ids")
    return record.hash_block_size
