"""Rows on the fast backend: hit rates alone and in the mix, losses to capacity and policy, costs of each to others."""

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from milestone3_code.study.study import Point, Study
from milestone3_code.study.view import View, capacity_of, hit_tokens, requests_of, run_of
from vllm_sim.eviction.chains import Array
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Outcome, labels_of
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import Linked, outcome_of
from vllm_sim.replay.summary import rates
from vllm_sim.sweep.bootstrap import ratio_intervals
from vllm_sim.sweep.runs import load, traffic
from vllm_sim.sweep.units import units_of

Mask = npt.NDArray[np.bool_]
Values = dict[str, npt.NDArray[Any]]
KEPT = ("requests", "prompt_tokens", "hit_tokens")
"""Of a workload's counts."""
DIGITS = 4
"""Of the ends of an interval: 1,000 draws tell no more."""


def ratios(
    parts: Values, whole: npt.NDArray[Any], sessions: Array, where: Mapping[str, Mask] | None = None
) -> dict[str, Row]:
    """Sums over requests, as shares of the sum of `whole`, each with its interval.

    Args:
        parts: by name of the field, a value for each request.
        whole: of each request.
        sessions: of each request.
        where: the requests that count, by name of the result.

    Returns:
        Fields by name; of all requests under "".
    """
    masks = {"": np.ones(len(whole), np.bool_), **(where or {})}
    names = [(name, field) for name in masks for field in parts]
    tops = np.array([parts[field] * masks[name] for name, field in names], np.float64)
    below = np.array([whole * masks[name] for name, _ in names], np.float64)
    rows: dict[str, Row] = {name: {} for name in masks}
    pairs = ratio_intervals(tops, below, sessions)
    for (name, field), top, total, pair in zip(names, tops.sum(axis=1), below.sum(axis=1), pairs, strict=True):
        rows[name] |= {
            field: round(float(top / max(1.0, total)), 6),
            f"{field}_ci95": [round(end, DIGITS) for end in pair],
        }
    return rows


def shares(view: View, parts: Values, by_workload: bool = False) -> Row:
    """`ratios` of the prompt tokens, and of each workload's if `by_workload`."""
    shown = requests_of(view)
    masks = shown.tagged("workload") if by_workload else {}
    rows = ratios(parts, shown.requests.prompt_tokens, shown.sessions, masks)
    return rows[""] | ({"by_workload": {name: rows[name] for name in masks}} if by_workload else {})


def config_of(study: Study, point: Point, view: View, capacity: int | None) -> RunConfig:
    """As a replay would have it."""
    return RunConfig(
        model=study.model,
        backend="fast",
        capacity_blocks=capacity,
        block_size=view.block_size,
        raw_blocks=view.raw_blocks,
        policy=point.policy,
        policy_params=dict(point.params),
    )


def begin(study: Study, point: Point, view: View, capacity: int | None) -> Row:
    """The fields that say what ran."""
    what: Row = {
        "experiment": point.experiment,
        "mix": point.mix,
        "workload": point.workload,
        "capacity": point.capacity or None,
    }
    trace = load(view.path, view.model).trace
    return what | head(view.path.name, trace.sha256, config_of(study, point, view, capacity))


def units(study: Study, view: View, capacity: int | None) -> Row:
    """A capacity as memory of the model's cache, and as the time in which the traffic brings so many tokens."""
    if capacity is None:
        return {"capacity_gib": None, "capacity_seconds": None}
    found = units_of(capacity, view.block_size, None, study.model, traffic(view.path, view.model))
    sizes = {"capacity_gib": found.gib, "capacity_seconds": found.seconds}
    return {name: None if size is None else round(size, 3) for name, size in sizes.items()}


def mix_row(study: Study, point: Point) -> Row:
    """`mix` and `alone`."""
    whole = study.view(point)
    view = whole._replace(workload=point.workload)
    capacity = capacity_of(point.capacity, whole)
    whole_run = outcome(study, point, view, capacity)
    row = begin(study, point, view, capacity) | units(study, whole, capacity)
    row |= counts(whole_run) if point.workload is None else _kept(whole_run)
    hits = hit_tokens(view, point.policy, capacity)
    parts = {"token_hit_rate": hits, "gain_over_lru": hits - hit_tokens(view, "lru", capacity)}
    row |= shares(view, parts, by_workload=point.workload is None)
    for name, mask in requests_of(view).tagged("workload").items():
        if point.workload is None:
            row["by_workload"][name] = _kept(whole_run, mask) | row["by_workload"][name]
    return row


def _kept(outcome: Outcome, where: Mask | None = None) -> Row:
    found = rates(outcome, where)
    return {field: getattr(found, field) for field in KEPT}


def outcome(study: Study, point: Point, view: View, capacity: int | None) -> Outcome:
    """A run as `vllm-sim replay` has it."""
    run, shown = run_of(view, point.policy, point.params, capacity), requests_of(view)
    linked = Linked(shown.requests, shown.chains)
    return outcome_of(run, linked, shown.records, labels_of(shown.records), config_of(study, point, view, capacity))


def counts(outcome: Outcome) -> Row:
    """The fields of a summary row that these studies keep."""
    parts, totals = outcome.parts, outcome.totals
    assert parts is not None
    assert totals is not None
    return msgspec.to_builtins(rates(outcome)) | {
        "miss_cold_tokens": int(parts.cold.sum()),
        "miss_evicted_tokens": int(parts.evicted.sum()),
        "miss_partial_tokens": int(parts.partial.sum()),
        "miss_last_tokens": int(parts.last.sum()),
        "rejected_requests": int(outcome.rejected.sum()),
        "sessions": len(outcome.labels.session.values),
        **totals._asdict(),
    }


def loss_row(study: Study, point: Point) -> Row:
    """What is lost to capacity and to the policy."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    unlimited = hit_tokens(view, "lru", None)
    opt, lru, hybrid = (hit_tokens(view, policy, capacity) for policy in ("belady", "lru", "hybrid"))
    parts = {
        "unlimited_hit_rate": unlimited,
        "belady_hit_rate": opt,
        "lru_hit_rate": lru,
        "hybrid_hit_rate": hybrid,
        "lost_to_capacity": unlimited - opt,
        "lost_to_policy": opt - lru,
        "gained_by_hybrid": hybrid - lru,
    }
    return begin(study, point, view, capacity) | shares(view, parts)


def lost_row(study: Study, point: Point) -> Row:
    """What workloads cost each other: tokens missed since they had been evicted, by the evictor of the first."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    run, shown = run_of(view, point.policy, point.params, capacity), requests_of(view)
    row = begin(study, point, view, capacity) | {"lost_tokens": {}, "share_of_prompt": {}}
    for name in ("workload", "tenant"):
        masks = shown.tagged(name)
        evictors = np.array([str(getattr(record, name)) for record in shown.records])
        culprit = np.where(run.evicted_by >= 0, evictors[run.evicted_by], "")
        lost = run.missed * view.block_size
        tokens = {
            owner: {
                evictor: count
                for evictor in ("", *masks)
                if (count := int(lost[mask & (culprit == evictor)].sum())) or evictor
            }
            for owner, mask in masks.items()
        }
        row["lost_tokens"][name] = tokens
        row["share_of_prompt"][name] = {
            owner: {
                key: round(count / int(shown.requests.prompt_tokens[masks[owner]].sum()), 6)
                for key, count in of.items()
            }
            for owner, of in tokens.items()
        }
    return row


def hash_row(study: Study, point: Point) -> Row:
    """A trace of hash ids, raw blocks."""
    view = study.view(point)._replace(part=point.detail, raw_blocks=True)
    capacity = capacity_of(point.capacity, view)
    row = begin(study, point, view, capacity) | {"part": point.detail} | counts(outcome(study, point, view, capacity))
    hits = hit_tokens(view, point.policy, capacity)
    return row | shares(view, {"token_hit_rate": hits, "gain_over_lru": hits - hit_tokens(view, "lru", capacity)})
