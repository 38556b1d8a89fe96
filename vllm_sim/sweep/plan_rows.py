"""What a plan comes to: a row for each load, policy and block size.

Goodput counts requests whose own TTFT, TPOT and end-to-end time are within the bounds of the level, whatever percentile
each is for. What binds a step is by the roofline, weighted by the step's time; a step under `table` has no parts.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from vllm_sim.replay.about import About
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.latency import BOUNDS, Roofline
from vllm_sim.replay.outcome import Outcome
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import run
from vllm_sim.step_load import StepLoad
from vllm_sim.sweep.planning import Planned, Wanted
from vllm_sim.sweep.runs import load
from vllm_sim.sweep.service_level import Bound

SCHEMA = 1


class PlanTier(msgspec.Struct, frozen=True, kw_only=True):
    """CPU memory of a deployment; bytes are sums over the replicas."""

    kv_offloading_size: Annotated[float, About("of each replica", "GiB")]
    offload_gbps: Annotated[float, About("to it, and as many from it", "GB/s")]
    external_hit_rate: Annotated[float, About("share of the prompt tokens that came from it")]
    stored_bytes: Annotated[int, About("copied to it", "bytes")]
    loaded_bytes: Annotated[int, About("copied from it", "bytes")]
    unused_bytes: Annotated[int, About("stored and never loaded", "bytes")]


class PlanRow(msgspec.Struct, frozen=True, kw_only=True):
    """A deployment; its numbers are of all requests, wherever they were served."""

    schema: int = SCHEMA
    trace: Annotated[str, About("the trace's file name")]
    trace_sha256: str
    model: str | None
    device: str
    tensor_parallel: int
    service_level: str
    load: Annotated[float, About("arrivals and think times divided by it")]
    met: bool
    what_it_would_take: Annotated[str | None, About("where the level is not met")] = None
    replicas: int
    router: Annotated[str | None, About("before several replicas; null: one")]
    policy: str
    policy_params: dict[str, Any]
    block_size: Annotated[int, About("as given", "tokens")]
    capacity_blocks: Annotated[int, About("of a replica", "blocks")]
    capacity_tokens: Annotated[int, About("of a replica, by vLLM's estimate", "tokens")]
    capacity_gib: Annotated[float, About("of each device", "GiB")]
    capacity_share: Annotated[float, About("of what a device holds")]
    tier: Annotated[PlanTier | None, About("blocks in CPU memory too")] = None
    token_hit_rate: float
    ttft_ms: Annotated[dict[str, float | None], About("percentiles", "ms")]
    tpot_ms: Annotated[dict[str, float | None], About("percentiles", "ms")]
    e2e_ms: Annotated[dict[str, float | None], About("percentiles", "ms")]
    preemptions: int
    output_tokens_per_s: float
    goodput_requests_per_s: Annotated[float, About("within all bounds", "requests/s")]
    bound_by: Annotated[dict[str, float], About("shares of the time of steps; memory: share of requests preempted")]
    cost_per_hour: float | None = None
    cost_per_million_output_tokens: float | None = None


class Explained(NamedTuple):
    """What the run of a deployment says beyond its row."""

    outcome: Outcome
    shares: dict[str, float]
    """Of the time of steps, by a name of BOUNDS; empty where the latency model has no parts."""


class _Loads:
    """Follows a run: what its steps computed, and how long that took in milliseconds."""

    def __init__(self) -> None:
        self.ms: Counter[StepLoad] = Counter()

    def step(self, step: Any) -> None:
        """A step that has ended."""
        self.ms[step.load] += step.end_ms - step.start_ms

    def request(self, result: Any) -> None:
        """A request that has ended: nothing to note."""


def plan_row(wanted: Wanted, planned: Planned, price_per_hour: float | None) -> PlanRow:
    """The row of what was found; runs its deployment once more, to see what binds it."""
    probe, level = planned.probe, wanted.level
    config, row, blocks = probe.config, probe.row, probe.replica_blocks
    explained = _explain(wanted, config)
    tokens_per_s = row["output_tokens_per_s"] or 0.0
    cost = None if price_per_hour is None else price_per_hour * config.replicas * config.tensor_parallel
    schedule = explained.outcome.schedule
    preempted = 0 if schedule is None else int((schedule.preemptions > 0).sum())
    return PlanRow(
        trace=wanted.trace.name,
        trace_sha256=load(wanted.trace, wanted.config.model).trace.sha256,
        model=None if wanted.config.model is None else Path(wanted.config.model).name,
        device=config.device,
        tensor_parallel=config.tensor_parallel,
        service_level=",".join(map(str, level)),
        load=config.speedup,
        met=planned.met,
        what_it_would_take=None if planned.met else _what_it_would_take(wanted, planned),
        replicas=config.replicas,
        router=config.router,
        policy=config.policy,
        policy_params=config.policy_params,
        block_size=config.block_size,
        capacity_blocks=blocks,
        capacity_tokens=int(probe.device.tokens * blocks / probe.device.blocks),
        capacity_gib=round(blocks * probe.device.bytes_per_block / 2**30, 3),
        capacity_share=round(blocks / probe.device.blocks, 4),
        tier=_tier(probe.config, row),
        token_hit_rate=row["token_hit_rate"],
        ttft_ms=_percentiles(row, "ttft"),
        tpot_ms=_percentiles(row, "tpot"),
        e2e_ms=_percentiles(row, "e2e"),
        preemptions=row["preemptions"],
        output_tokens_per_s=round(tokens_per_s, 3),
        goodput_requests_per_s=round(_goodput(level, explained.outcome), 4),
        bound_by=explained.shares | {"memory": round(preempted / max(1, row["requests"]), 4)},
        cost_per_hour=cost,
        cost_per_million_output_tokens=None
        if cost is None or not tokens_per_s
        else round(cost / 3600 / tokens_per_s * 1e6, 4),
    )


def _tier(config: RunConfig, row: Row) -> PlanTier | None:
    if config.kv_offloading_size is None:
        return None
    return PlanTier(
        kv_offloading_size=config.kv_offloading_size,
        offload_gbps=row["offload_gbps"],
        external_hit_rate=round(row["external_hit_tokens"] / max(1, row["prompt_tokens"]), 6),
        stored_bytes=row["tier_stored_bytes"],
        loaded_bytes=row["tier_loaded_bytes"],
        unused_bytes=row["tier_unused_bytes"],
    )


def _explain(wanted: Wanted, config: RunConfig) -> Explained:
    loads = _Loads()
    outcome = run(load(wanted.trace, config.model), config, watcher=loads).outcome
    total = sum(loads.ms.values())
    if not isinstance(outcome.latency, Roofline) or not total:
        return Explained(outcome, {})
    bound = dict.fromkeys(BOUNDS, 0.0)
    for step, ms in loads.ms.items():
        bound[outcome.latency.bound_by(step)] += ms
    return Explained(outcome, {name: round(ms / total, 4) for name, ms in bound.items()})


def _percentiles(row: dict[str, Any], metric: str) -> dict[str, float | None]:
    return {f"p{share}": row.get(f"{metric}_ms_p{share}") for share in (50, 90, 99)}


def _goodput(level: Iterable[Bound], outcome: Outcome) -> float:
    schedule = outcome.schedule
    assert schedule is not None  # the engine has one
    tokens = outcome.output_tokens
    spans = {
        "ttft": schedule.first_token_ms - schedule.arrival_ms,
        "tpot": (schedule.end_ms - schedule.first_token_ms) / np.maximum(tokens - 1, 1),
        "e2e": schedule.end_ms - schedule.arrival_ms,
    }
    within = ~outcome.rejected
    for bound in level:
        within &= spans[bound.metric] <= bound.most_ms
    served = ~outcome.rejected
    if not served.any():
        return 0.0
    seconds = float(schedule.end_ms[served].max() - schedule.arrival_ms[served].min()) / 1000
    return float(within.sum()) / seconds if seconds > 0 else 0.0


def _what_it_would_take(wanted: Wanted, planned: Planned) -> str:
    """Why the level is not met, and by how much."""
    probe, alone = planned.probe, planned.alone
    assert alone is not None
    found = "; ".join(dict.fromkeys(probe.misses(wanted.level)))
    excess = max((alone[bound.field] or 0.0) / bound.most_ms for bound in wanted.level)
    if excess > 1:
        return (
            f"a device {excess:.2f} times as fast, or more of them for each layer: a request alone, with nothing ever "
            f"evicted, is not within the level ({found})"
        )
    first = planned.tried[0].excess(wanted.level)
    return (
        f"more than {probe.config.replicas} replicas: with 1 the level is missed by a factor of {first:.2f}, with "
        f"{probe.config.replicas} by {probe.excess(wanted.level):.2f} ({found}); a request alone is within it"
    )
