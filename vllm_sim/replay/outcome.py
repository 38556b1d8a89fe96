"""What a backend makes of a trace's requests, as arrays; rows are made of it where they are written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vllm_sim.replay.breakdown import Array, Breakdown
from vllm_sim.replay.latency import LatencyModel
from vllm_sim.replay.rows import TIER_MISSES, TIMES, CacheGroup, RequestResult, Row, request_fields
from vllm_sim.trace.columns import LABELS, column, label_values
from vllm_sim.trace.record import Record

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Label(NamedTuple):
    """A label of requests, such as their workload, as numbers in the order of first appearance."""

    values: list[Any]
    codes: Array
    """[n], places in `values`; -1 where a request has none."""


class Labels(NamedTuple):
    """The labels of a trace's requests; many runs may share them."""

    workload: Label
    turn: Label
    tenant: Label
    session: Label


class Totals(NamedTuple):
    """What a backend counts itself, over the whole run."""

    working_set_blocks: int
    evicted_blocks: int
    orphan_blocks: int | None
    """None: not known for several groups of layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What only the engine knows; arrays [n], times in virtual milliseconds, NaN where a request was rejected."""

    preemptions: Array
    readmission_hit_tokens: Array
    arrival_ms: Floats
    first_scheduled_ms: Floats
    first_token_ms: Floats
    end_ms: Floats


class Groups(NamedTuple):
    """What is known where layers do not all keep the same."""

    groups: Sequence[CacheGroup]
    hit_alignment_tokens: int
    capacity_tokens: int
    """Tokens that the cache holds by upstream's estimate."""
    missed: Array
    """[n], the group whose block was missed first; -1: none."""


class Fleet(NamedTuple):
    """What is known of several replicas."""

    replica: Array
    """[n], which served each request."""
    capacity_blocks: int | None
    """Of each."""
    evicted_blocks: Sequence[int | None]
    """By each; None: not known."""


class TierHits(NamedTuple):
    """What is known where blocks are in CPU memory too; arrays [n], in tokens."""

    external: Array
    """Of the hits."""
    evicted: Array
    """Of the evicted, as the next two."""
    pending: Array
    never: Array


class TierTraffic(NamedTuple):
    """What went to CPU memory and back, over the whole run."""

    chunks: int
    stored_bytes: int
    loaded_bytes: int
    unused_bytes: int | None
    """None without attribution."""
    stall_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A run's requests, in the trace's order; n is their number."""

    records: Sequence[Record]
    labels: Labels
    block_size: int
    prompt_tokens: Array
    output_tokens: Array
    """Generated; 0 where a request was rejected."""
    rejected: Mask
    parts: Breakdown | None
    """None without attribution, as the next three."""
    evicted_by: Array | None
    """Row whose allocation evicted the first block that was missed though it had been cached; -1: none."""
    blocks_allocated: Array | None
    totals: Totals | None
    retokenised: Sequence[int | None] | None = None
    schedule: Schedule | None = None
    groups: Groups | None = None
    """None where all layers have full attention."""
    fleet: Fleet | None = None
    """None: one replica."""
    tier: TierHits | None = None
    """None where no blocks are in CPU memory, or without attribution."""
    traffic: TierTraffic | None = None
    files: dict[str, list[Row]] = field(default_factory=dict)
    """More files of the run, by name."""
    steps: str | None = None
    """Engine: whether vLLM's scheduler was shown every step, and why."""
    latency: LatencyModel | None = None
    """Engine: how long its steps took; None: no time."""


def labels_of(records: Sequence[Record]) -> Labels:
    """The labels of a trace's requests."""
    return Labels(*(Label(label_values(records, name), column(records, name)) for name in LABELS))


def request_results(outcome: Outcome) -> Iterator[RequestResult]:
    """The rows of requests.jsonl, in the trace's order."""
    columns = {
        "prompt_tokens": outcome.prompt_tokens.tolist(),
        "output_tokens": outcome.output_tokens.tolist(),
        "status": np.where(outcome.rejected, "rejected", "ok").tolist(),
    }
    if outcome.fleet is not None:
        columns["replica"] = outcome.fleet.replica.tolist()
    if outcome.parts is not None and outcome.evicted_by is not None and outcome.blocks_allocated is not None:
        columns |= {
            "hit_tokens": outcome.parts.hit.tolist(),
            "hit_generated_tokens": outcome.parts.hit_generated.tolist(),
            "miss_cold_tokens": outcome.parts.cold.tolist(),
            "miss_evicted_tokens": outcome.parts.evicted.tolist(),
            "miss_partial_tokens": outcome.parts.partial.tolist(),
            "miss_last_tokens": outcome.parts.last.tolist(),
            "evicted_by": [None if row < 0 else row for row in outcome.evicted_by.tolist()],
            "blocks_allocated": outcome.blocks_allocated.tolist(),
        }
    if outcome.parts is not None and outcome.parts.window is not None and outcome.parts.alignment is not None:
        columns["miss_window_tokens"] = outcome.parts.window.tolist()
        columns["miss_alignment_tokens"] = outcome.parts.alignment.tolist()
    if outcome.parts is not None and outcome.groups is not None:
        kinds = [f"{place}: {group.kind}" for place, group in enumerate(outcome.groups.groups)]
        columns["missed_group"] = [None if group < 0 else kinds[group] for group in outcome.groups.missed.tolist()]
    if outcome.tier is not None:
        columns["external_hit_tokens"] = outcome.tier.external.tolist()
        columns |= dict(zip(TIER_MISSES, (part.tolist() for part in outcome.tier[1:]), strict=True))
    if outcome.retokenised is not None:
        columns["retokenised_tokens"] = list(outcome.retokenised)
    if outcome.schedule is not None:
        columns |= _schedule_columns(outcome.schedule, outcome)
    names = list(columns)
    for row, (record, *values) in enumerate(zip(outcome.records, *columns.values(), strict=True)):
        yield RequestResult(
            **request_fields(row, record),
            **dict(zip(names, values, strict=True)),
        )


def _schedule_columns(schedule: Schedule, outcome: Outcome) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"preemptions": schedule.preemptions.tolist()}
    if outcome.parts is not None:
        columns["readmission_prompt_tokens"] = (outcome.prompt_tokens * schedule.preemptions).tolist()
        columns["readmission_hit_tokens"] = schedule.readmission_hit_tokens.tolist()
    for name in TIMES:
        columns[name] = [None if ms != ms else round(ms, 3) for ms in getattr(schedule, name).tolist()]  # NaN
    return columns
