"""What study two runs, read from one TOML file, and what its rows mean.

Files under results/, JSON lines, in the plan's order:

    mixed.jsonl         experiments of the fast backend on the mixes `report_*`
    mixed_seeds.jsonl   experiment `seeds`: sums of each draw of a mix
    mixed_gap.jsonl     experiment `gap`: what they come to over the draws; the main result, made of mixed_seeds.jsonl
    mixed_matrix.jsonl  experiment `lost`: what evictions cost, by owner and evictor
    mixed_engine.jsonl  experiment `engine`: the main grid under vLLM's scheduler in virtual time
    mixed_hash.jsonl    experiment `hash_trace`: traces of hash ids given by path; only written with --hash-trace

Every row has what ran, as in summary.jsonl (trace, trace_sha256, backend, policy, policy_params, capacity_blocks,
capacity_tokens, block_size, raw_blocks, seed), and

    key, code           of its run: the plan's point over this trace, and a fingerprint of the code that made the row
    experiment, mix     mix: even, agents, chat, scan, shift, or `all` (sums over the mixes)
    workload            the workload that runs alone; null: the whole mix
    capacity            as the TOML file says it: "2%" ... "100%" of the working set at this block size, "largest" (what
                        the largest request needs, the least everywhere), "unlimited"; of the mix unless said otherwise
    data                source "built", the mix's config_sha256 (its beginning), and sharegpt: source, SHA-256 (its
                        beginning), and whether it is a part; source "drawn by seed" for `random`
    quick               true: a quick run, no result

Rates are token hit rates unless named. Gains compare the same requests in two runs. `NAME_ci95` is a 95 % interval of
NAME: in mixed_gap.jsonl over the draws of a mix (spread.py). All else runs the first draw (mix_seed 0), and an interval
resamples its sessions (of few-shot: batches), each time the same ones from both runs: it says how much a number depends
on which sessions there are, and not how other sessions would have used the cache.

    seeds      mix_seed; capacities, and blocks, capacity_gib, capacity_seconds of each; working_set_blocks, requests,
               prompt_tokens, prompt_tflops (operations of all prompts); hit_tokens, saved_tflops: {policy: [of each
               capacity]}; by_workload: {name: prompt_tokens, hit_tokens} (blocks of 16 alone).
    gap        A row a policy, block size, mix or `all`, and capacity; capacity null: summed over `capacities`. seeds:
               number of draws. gap_closed: (hits - LRU's) / (the optimum's - LRU's), the mean over draws, and
               gap_closed_by_seed; gain_tokens, gap_tokens: sums of all draws; token_hit_rate, gain_over_lru: means.
               compute_hit_rate, compute_gap_closed: the same of the prompts' operations, where early tokens are
               cheaper (prefill.py); saved_ms_a_request: their time on `device`. hybrid_lead: gap_closed of `hybrid`
               less this policy's, draw by draw; hybrid_ahead_seeds: draws in which it is ahead; hybrid_sign_p: sign
               test. Of one mix and capacity also capacity_gib (of the model's cache) and capacity_seconds (of traffic:
               sweep/units.py), means over draws, and by_workload: {name: token_hit_rate, gain_over_lru} (blocks of 16).

    mix        All policies. The counts and rates of summary.jsonl without those of turns, tenants, sessions and slots;
               token_hit_rate_ci95; gain_over_lru, gain_over_lru_ci95; by_workload: {name: requests, prompt_tokens,
               hit_tokens, token_hit_rate, gain_over_lru, both with _ci95}; capacity_gib, capacity_seconds. Also
               `lru` at "unlimited".
    alone      One workload of the mix alone, at the mix's capacity in blocks: what is lost in the mix. requests,
               prompt_tokens, hit_tokens, token_hit_rate, gain_over_lru, both with _ci95.
    loss       A row a mix, block size and capacity (policy `belady`): unlimited_hit_rate, belady_hit_rate,
               lru_hit_rate, hybrid_hit_rate; lost_to_capacity (unlimited - belady), lost_to_policy (belady - lru),
               gained_by_hybrid (hybrid - lru), each with _ci95.
    isolation  tenants: "none" (no salt), "tenant" (a salt for each tenant of the mix), "2" ... "16" (sessions dealt to
               so many tenants), "session" (a salt for each); salts: number of different ones; token_hit_rate, cost
               (rate without salt - this rate), cost_ci95. Capacity in blocks as without.
    guarantee  hybrid against LRU: workload null or alone with capacities of its own working set; tags: "with",
               "without" (no workload, no turn), "shuffled"; block sizes 16 to 512; token_hit_rate, lru_hit_rate,
               gain_over_lru, gain_over_lru_ci95; hits_sha256 (of the hit tokens of all requests: equal means equal).
               A capacity is the largest request at least.
    ablation   variant: "default", "without NAME" (a part is off), "half NAME", "double NAME" (a constant); the values
               are in policy_params; token_hit_rate, gain_over_lru, gain_over_default, gain_over_default_ci95.
    cold_start A row a policy: first_hit_rate (first tenth of the requests), rest_hit_rate, both with _ci95, and with
               gain_over_lru in each: first_gain_over_lru, rest_gain_over_lru (_ci95).
    windows    kind: "shift" (mix shift: the workloads change in the middle), "scan" (mix scan), "burst" (mix even, all
               one-off calls of the second half come at once in the middle); 20 windows of equally many requests:
               hit_rates (list), gains_over_lru (list), burst_windows (list of places, empty without a burst);
               token_hit_rate, gain_over_lru.
    bytes      policy hybrid: token_hit_rate; lru_blocks (LRU's least capacity with at least this rate, by its curve),
               lru_bytes, capacity_bytes, saved_bytes (lru - hybrid), saved_share (of lru_bytes); bytes of the model's
               cache at 16 bits. saved_bytes below 0: LRU needs less.
    random     A row a traffic of random_traffic.py (mix_seed), in mix "all" though of no mix: capacities, blocks,
               lru_hit_rate, belady_hit_rate (of each capacity), gains_over_lru: {policy, or "hybrid without NAME":
               token hit rate over LRU's, of each}. No interval: the traffics are the sample.

mixed_matrix.jsonl:

    lost       backend fast: lost_tokens: {by: {owner: {evictor: prompt tokens}}}, what the owner's requests missed
               since it had been evicted, by the request that evicted the first block of it; share_of_prompt: {by: the
               same / prompt tokens of the owner}

mixed_engine.jsonl: a row a mix, load, capacity and policy; a capacity is as many blocks as in mixed.jsonl. load:
sessions a second / the mix's own (stationary.py); seconds, warmup_s: requests that are due from warmup_s to seconds are
measured (`requests`; warmup_requests before them, trace_requests in all); device; capacity_gib, capacity_seconds; the
engine's fields of summary.jsonl; gain_over_lru; ttft_ms_p50 and so on (intervals of ttft alone); ttft_over_lru_ms: mean
difference of the same requests; running_requests: at a time, the mean from warmup_s to seconds; saved_tflops, saved_s:
of the hit tokens, on the device; by_workload: {name: requests, prompt_tokens, token_hit_rate, gain_over_lru,
ttft_ms_p50, p90, p99}. `belady`: policy_future, future_rounds, future_settled (timed.py).

mixed_hash.jsonl: raw blocks, all policies; part: "whole", "first" (half of the time: tuned on), "second" (reported);
the fields of `mix` without by_workload (requests resampled where there are no sessions).
"""

import inspect
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from milestone3_code.study.study import MAIN_BLOCK, Point, Study, Timing
from milestone3_code.study.view import Params
from vllm_sim.eviction.policies.hybrid import Hybrid
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.replay.latency import DEVICES
from vllm_sim.trace.files import iter_records
from vllm_sim.workloads.tables import TABLE, TEXT, ConfigError, Rule, TomlTable, choice, number, read_toml, whole

SCALES = (("half", 0.5), ("double", 2.0))
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
    seeds = top.need("seeds", whole(1)) if quick is None else quick.need("seeds", whole(1))
    yield from _engine(study, top.need_table("engine"), quick)
    for values in top.need("grid", TABLES):
        yield from _grid(study, TomlTable(values, plan, "grid"), quick, variants, seeds)


def _grid(
    study: Study, grid: TomlTable, quick: TomlTable | None, variants: list[tuple[str, Params]], seeds: int
) -> Iterator[Point]:
    experiment = grid.need("experiment", TEXT)
    if experiment == "hash_trace":
        names, sizes = [path.name for path in study.hash_traces], [MAIN_BLOCK]
    else:
        names = kept(grid.get("mixes", LIST, [*study.mixes]), quick, "mixes", always=["all"])
        sizes = kept(grid.get("block_sizes", LIST, [MAIN_BLOCK]), quick, "block_sizes")
    all_capacities = grid.need("capacities", LIST)
    capacities = kept(all_capacities, quick, "capacities")
    policies = grid.need("policies", LIST)
    policies = kept(list(POLICIES) if policies == ["all"] else policies, quick, "policies")
    details = grid.get("details", LIST, [""])
    traffics = grid.get("traffics", whole(1), 0)
    if experiment == "seeds":
        summed = grid.need("summed", LIST)
        grid.close()
        yield from _seeds(study, sizes, all_capacities, summed, policies, seeds)
        return
    grid.close()
    if experiment == "random":
        for seed in range(0 if quick else traffics):  # it compiles every policy
            yield Point(experiment, "all", detail=" ".join(capacities), policy=policies[0], mix_seed=seed)
        return
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


def _seeds(
    study: Study, sizes: list[int], capacities: list[str], summed: list[str], policies: list[str], seeds: int
) -> Iterator[Point]:
    """The draws of each mix, and then what they come to: at each capacity, and summed over some."""
    for mix, seed, size in product(study.mixes, range(seeds), sizes):
        detail = " ".join(capacities)
        yield Point("seeds", mix, size, detail=detail, mix_seed=seed, policies=tuple(policies))
    over = [*((capacity, capacity) for capacity in capacities), ("", " ".join(summed))]
    for mix, size, (capacity, detail), policy in product([*study.mixes, "all"], sizes, over, policies):
        yield Point("gap", mix, size, capacity, policy, detail=detail)


def _engine(study: Study, table: TomlTable, quick: TomlTable | None) -> Iterator[Point]:
    loads = kept(table.need("loads", LIST), quick, "loads")
    capacities = kept(table.need("capacities", LIST), quick, "capacities")
    policies = kept(table.need("policies", LIST), quick, "policies")
    timings, seeds = [timing_of(table, quick, load) for load in loads], table.need("seeds", whole(1))
    table.close()
    for mix, seed, timing, capacity, policy in product(study.mixes, range(seeds), timings, capacities, policies):
        yield Point("engine", mix, capacity=capacity, policy=policy, mix_seed=seed, timing=timing)


def timing_of(table: TomlTable, quick: TomlTable | None, load: float | None = None) -> Timing:
    """How requests of the engine come, by a table; a quick run may have other times.

    Args:
        table: with seconds, warmup_s, device, and load where none is given.
        quick: the table of a quick run; None: the run is not quick.
        load: times the mix's rates of sessions.
    """
    load = table.need("load", number(0, 1e6, above=True)) if load is None else load
    times = {name: table.need(name, number(0, 1e6)) for name in ("seconds", "warmup_s")}
    if quick is not None:
        times = {name: quick.get(name, number(0, 1e6), value) for name, value in times.items()}
    return Timing(
        float(load), float(times["seconds"]), float(times["warmup_s"]), table.need("device", choice(*DEVICES))
    )


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
