"""The ladder: where the prompt tokens were lost that a run had to compute, each charged to one step.

Every level is a measured run of the same requests, each with one thing more that costs hits; a step is what a request
hits on one level and not on the next:

    prompt            all of it
    nothing_to_share  what no earlier request has computed (shared_tokens.py): the trace's own limit
    block_rules       one cache without a limit, by vLLM's rules: full blocks alone, never the last token
    capacity          one cache of all blocks under the optimum, `belady`, one request after the other
    routing           a cache for each replica under `belady`, each request where the run's router sent it
    policy            the run's policy in place of `belady`
    tier              two tiers in place of one cache (with CPU memory): what both hold, and what vLLM does not store
    schedule          the engine: batches, chunks, requests in flight together (engine)
    preemption        prompt tokens computed again after preemptions, less what was found on returns (engine)

With CPU memory `capacity` to `policy` are of one cache of both sizes. `tier` is of both as they are, one request after
the other, with copies of no time; how long they take is part of `schedule`.

The steps of a request add up to the prompt tokens that it had computed: prompt - hit + recomputed. The first three are
never negative. The others may be negative, for one request or in sum: belady loses least over all requests together,
not in each of them, and it counts blocks; a schedule may serve requests in a better order; and what is found on a
return may be generated.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from vllm_sim.eviction.chains import Array
from vllm_sim.eviction.names import OFFLINE
from vllm_sim.eviction.simulate import simulate
from vllm_sim.fleet.assigned import AssignedRouter
from vllm_sim.fleet.router import RouterContext
from vllm_sim.replay.about import About
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.config_checks import TIER_DEFAULTS
from vllm_sim.replay.fleet import run_caches
from vllm_sim.replay.outcome import Mask, Outcome
from vllm_sim.replay.rows import RequestOfTrace, Row, head, request_fields
from vllm_sim.replay.run import Linked, Loaded, Result, link_blocks, run
from vllm_sim.replay.shared_tokens import shared_tokens
from vllm_sim.replay.summary import name_order

STEPS = ("nothing_to_share", "block_rules", "capacity", "routing", "policy", "tier", "schedule", "preemption")
MAY_BE_NEGATIVE = STEPS[3:]


class Ladder(NamedTuple):
    """The steps of every request, and the run that they explain."""

    steps: dict[str, Any]
    """Tokens, an array [n] each; without an engine there are two less, without CPU memory one."""
    computed: Any
    """[n], the tokens that the steps add up to."""
    result: Result


class LadderRow(msgspec.Struct, frozen=True, kw_only=True):
    """The ladder of some requests: a row of ladder.jsonl, after the fields of its run."""

    by: Annotated[str, About("what the requests have in common: all, workload, tenant, turn")]
    value: Annotated[str, About("which of them")]
    requests: Annotated[int, About("counted", "requests")]
    prompt_tokens: Annotated[int, About("sum", "tokens")]
    hit_tokens: Annotated[int, About("sum", "tokens")]
    computed_tokens: Annotated[int, About("prompt tokens computed, again after preemptions too", "tokens")]
    steps: Annotated[dict[str, int], About("sums; they add up to computed_tokens", "tokens")]
    negative_requests: Annotated[dict[str, int], About("requests whose step is below 0", "requests")]


class LadderRequest(RequestOfTrace, frozen=True, kw_only=True):
    """The ladder of a request: a row of ladder_requests.jsonl."""

    replica: Annotated[int, About("which served it, from 0")]
    prompt_tokens: Annotated[int, About("of its prompt", "tokens")]
    hit_tokens: Annotated[int, About("found cached at first admission", "tokens")]
    steps: Annotated[dict[str, int], About("they add up to the tokens computed of its prompt", "tokens")]


def explain(loaded: Loaded, config: RunConfig, progress: Callable[[int], None] = lambda done: None) -> Ladder:
    """Runs a trace on every level of the ladder.

    Args:
        loaded: the trace.
        config: the run that is explained; its policy must not know the future.
        progress: called with the number of finished requests of the run itself.

    Raises:
        ValueError: the configuration has no ladder; or as `run`.
    """
    if config.raw_blocks or not config.attribution:
        raise ValueError(
            "the ladder is of vLLM's rules, with attribution; allowed: without --raw-blocks, --no-attribution"
        )
    if config.kv_offloading_size is not None and config.replicas > 1:
        raise ValueError(
            f"the ladder has CPU memory or a router, and replicas is {config.replicas}; allowed with it: 1"
        )
    linked = link_blocks(loaded, config.block_size, raw_blocks=False)
    result = run(loaded, config, linked, progress)
    outcome = result.outcome
    assert outcome.parts is not None
    if outcome.groups is not None:
        raise ValueError(f"the ladder knows one cache group, and layers of {config.model} do not all keep the same")
    prompt = outcome.prompt_tokens
    levels = [prompt, shared_tokens(loaded.trace, linked.chains, linked.requests.salt, config.block_size)]
    levels += [config.block_size * hits for hits in _levels_of_blocks(linked, loaded, config, outcome)]
    if config.kv_offloading_size is not None and config.backend == "engine":
        levels.append(_hits_of_tiers(linked, loaded, config))
    levels.append(outcome.parts.hit)
    names = [name for name in STEPS if name != "tier" or config.kv_offloading_size is not None]
    steps = {name: one - other for name, one, other in zip(names, levels, levels[1:], strict=False)}
    computed = prompt - outcome.parts.hit
    if outcome.schedule is not None:
        again = prompt * outcome.schedule.preemptions - outcome.schedule.readmission_hit_tokens
        steps["preemption"], computed = again, computed + again
    missed = sum(getattr(outcome.parts, name) for name in ("cold", "evicted", "partial", "last"))
    wrong = np.flatnonzero(sum(steps.values()) != missed + steps.get("preemption", 0))
    if wrong.size:
        raise RuntimeError(f"the steps of row {wrong[0]} do not add up to what was missed: a defect of vllm_sim")
    return Ladder(steps, computed, result)


def _levels_of_blocks(linked: Linked, loaded: Loaded, config: RunConfig, outcome: Outcome) -> Iterator[Array]:
    """Hit blocks of each request, [n], on the levels of one tier that need no engine; without one or CPU memory the
    last is the run itself."""
    config, has_tier = _one_cache(config, outcome), config.kv_offloading_size is not None
    chains, blocks = linked.chains, config.blocks
    without_limit = simulate(chains, "lru", None).hit
    yield without_limit
    yield without_limit if blocks is None else simulate(chains, OFFLINE, blocks).hit
    chosen = _replicas(outcome)
    router = AssignedRouter(RouterContext(config.replicas, config.block_size), chosen)
    best = replace(config, backend="fast", policy="lru" if blocks is None else OFFLINE, policy_params={})
    yield run_caches(linked, loaded.records, best, router).run.hit
    if config.backend == "engine" or has_tier:
        yield run_caches(linked, loaded.records, replace(config, backend="fast"), router).run.hit


def _one_cache(config: RunConfig, outcome: Outcome) -> RunConfig:
    """The run's configuration, with the blocks of CPU memory as the GPU's."""
    if outcome.traffic is None:
        return config
    tier_blocks = outcome.traffic.chunks * (config.offload_block_size or config.block_size) // config.block_size
    blocks = None if config.blocks is None else config.blocks + tier_blocks
    return replace(config, capacity_blocks=blocks, **TIER_DEFAULTS)


def _hits_of_tiers(linked: Linked, loaded: Loaded, config: RunConfig) -> Array:
    """Hit tokens of each request, [n], with both tiers, one request after the other and copies of no time."""
    at_once = replace(config, offload_gbps=None, latency_model="zero", latency_table=None, concurrency=1)
    is_plain = (config.offload_block_size, config.offload_store_threshold, config.offload_policy) == (None, 1, "lru")
    one = replace(at_once, backend="fast") if is_plain else replace(at_once, async_scheduling=False)
    parts = run(loaded, one, linked).outcome.parts
    assert parts is not None  # with attribution
    return parts.hit


def _replicas(outcome: Outcome) -> Array:
    return np.zeros_like(outcome.prompt_tokens) if outcome.fleet is None else outcome.fleet.replica


def ladder_rows(ladder: Ladder) -> list[LadderRow]:
    """The sums: of all requests, and of each workload, tenant and turn; the first `warmup` requests are left out."""
    outcome, config = ladder.result.outcome, ladder.result.summary.config
    count = outcome.prompt_tokens.size
    counted = np.arange(count) >= int(count * config.warmup)
    rows = [_row(ladder, counted, "all", "")]
    for by in ("workload", "tenant", "turn"):
        label = getattr(outcome.labels, by)
        names = {str(value): code for code, value in enumerate(label.values)}
        for name in sorted(names, key=name_order):
            chosen = counted & (label.codes == names[name])
            if chosen.any():
                rows.append(_row(ladder, chosen, by, name))
    return rows


def _row(ladder: Ladder, chosen: Mask, by: str, value: str) -> LadderRow:
    outcome = ladder.result.outcome
    assert outcome.parts is not None
    return LadderRow(
        by=by,
        value=value,
        requests=int(chosen.sum()),
        prompt_tokens=int(outcome.prompt_tokens[chosen].sum()),
        hit_tokens=int(outcome.parts.hit[chosen].sum()),
        computed_tokens=int(ladder.computed[chosen].sum()),
        steps={name: int(tokens[chosen].sum()) for name, tokens in ladder.steps.items()},
        negative_requests={
            name: int((tokens[chosen] < 0).sum()) for name, tokens in ladder.steps.items() if name in MAY_BE_NEGATIVE
        },
    )


def ladder_requests(ladder: Ladder) -> Iterator[LadderRequest]:
    """The steps of each request, in the trace's order."""
    outcome = ladder.result.outcome
    assert outcome.parts is not None
    columns = {name: tokens.tolist() for name, tokens in ladder.steps.items()}
    replica, prompt, hit = _replicas(outcome).tolist(), outcome.prompt_tokens.tolist(), outcome.parts.hit.tolist()
    for row, record in enumerate(outcome.records):
        yield LadderRequest(
            **request_fields(row, record),
            replica=replica[row],
            prompt_tokens=prompt[row],
            hit_tokens=hit[row],
            steps={name: column[row] for name, column in columns.items()},
        )


def file_rows(ladder: Ladder) -> list[Row]:
    """The rows of ladder.jsonl: the fields of the run, then the sums."""
    summary = ladder.result.summary
    begin = head(summary.trace, summary.trace_sha256, summary.config)
    return [begin | msgspec.to_builtins(row) for row in ladder_rows(ladder)]
