"""Rows on the fast backend: hit rates alone and in the mix, what is lost to capacity and policy, and who costs whom."""

from typing import Any

import numpy as np
import numpy.typing as npt

from vllm_sim.eviction.chains import Array
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import head, serve_cache
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.summary import summary_row
from vllm_sim.study.cells import load
from vllm_sim.study.chat.spread import ratio_intervals
from vllm_sim.study.mixed.asked import View, asked, capacity_of, group_numbers, hit_tokens, served
from vllm_sim.study.mixed.study import Point, Study

Mask = npt.NDArray[np.bool_]
Values = dict[str, npt.NDArray[Any]]


def ratios(parts: Values, whole: npt.NDArray[Any], sessions: Array, where: Mask | None = None) -> Row:
    """Sums over requests, as shares of the sum of `whole`, each with its interval.

    Args:
        parts: by name of the field, a value for each request.
        whole: of each request.
        sessions: of each request.
        where: the requests that count; None: all.
    """
    mask = np.ones(len(whole)) if where is None else where.astype(np.float64)
    tops = np.array([values * mask for values in parts.values()], np.float64)
    below = np.broadcast_to(whole * mask, tops.shape)
    pairs = ratio_intervals(tops, below, sessions)
    row: Row = {}
    for name, top, pair in zip(parts, tops, pairs, strict=True):
        row |= {name: round(float(top.sum() / max(1.0, below[0].sum())), 6), f"{name}_95": pair}
    return row


def by_workload(view: View, parts: Values) -> dict[str, Row]:
    """`ratios` of the prompt tokens, of each workload."""
    found = asked(view)
    return {
        name: ratios(parts, found.requests.prompt_tokens, found.sessions, mask)
        for name, mask in found.tagged("workload").items()
    }


def settings(study: Study, point: Point, view: View, capacity: int | None) -> Settings:
    """As a replay would be told."""
    return Settings(
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
    return what | head(view.path, trace, settings(study, point, view, capacity))


def mix_row(study: Study, point: Point) -> Row:
    """`mix` and `alone`."""
    whole = study.view(point)
    view = whole._replace(workload=point.workload)
    capacity = capacity_of(point.capacity, whole)
    found = asked(view)
    outcome = serve_cache(found.requests, found.chains, found.records, settings(study, point, view, capacity))
    row = begin(study, point, view, capacity) | summary_row(outcome.rows, view.block_size, 0.0) | outcome.tail
    for name in ("by_turn", "by_session", "by_tenant"):
        del row[name]
    hits = np.array([values["hit_tokens"] for values in outcome.rows])
    parts = {"token_hit_rate": hits, "gain_over_lru": hits - hit_tokens(view, "lru", capacity)}
    row |= ratios(parts, found.requests.prompt_tokens, found.sessions)
    if point.workload is None:
        row["by_workload"] = {name: row["by_workload"][name] | more for name, more in by_workload(view, parts).items()}
    else:
        del row["by_workload"]
    return row


def loss_row(study: Study, point: Point) -> Row:
    """What is lost to capacity and to the policy."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    unlimited = hit_tokens(view, "lru", None)
    opt, lru, hybrid = (hit_tokens(view, policy, capacity) for policy in ("opt", "lru", "hybrid"))
    parts = {
        "unlimited_hit_rate": unlimited,
        "opt_hit_rate": opt,
        "lru_hit_rate": lru,
        "hybrid_hit_rate": hybrid,
        "lost_to_capacity": unlimited - opt,
        "lost_to_policy": opt - lru,
        "gained_by_hybrid": hybrid - lru,
    }
    found = asked(view)
    row = begin(study, point, view, capacity) | ratios(parts, found.requests.prompt_tokens, found.sessions)
    return row | {"by_workload": by_workload(view, parts)}


def gap_row(study: Study, point: Point) -> Row:
    """Sum of gains over LRU / sum of gaps to the optimum, over capacities, and over mixes for `all`."""
    gains, gaps, sessions = [], [], []
    for mix in study.mixes if point.mix == "all" else [point.mix]:
        view = study.view(point._replace(mix=mix))
        capacities = [capacity_of(text, view) for text in point.detail.split()]
        lru = sum(hit_tokens(view, "lru", capacity) for capacity in capacities)
        gains.append(sum(hit_tokens(view, point.policy, capacity) for capacity in capacities) - lru)
        gaps.append(sum(hit_tokens(view, "opt", capacity) for capacity in capacities) - lru)
        sessions += [(mix, number) for number in asked(view).sessions]
    gain, gap = np.concatenate(gains), np.concatenate(gaps)
    row = begin(study, point, view, None) | {"capacities": point.detail.split()}
    if point.mix == "all":
        row |= {"trace": "all", "trace_sha256": study.sha256("all")}
    sums = {"gain_tokens": int(gain.sum()), "gap_tokens": int(gap.sum())}
    return row | sums | ratios({"gap_closed": gain}, gap, group_numbers(sessions))


def lost_row(study: Study, point: Point) -> Row:
    """Who costs whom: tokens missed since they had been evicted, by who evicted the first of them."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    run, found = served(view, point.policy, point.params, capacity), asked(view)
    row = begin(study, point, view, capacity) | {"lost_tokens": {}, "share_of_prompt": {}}
    for name in ("workload", "tenant"):
        masks = found.tagged(name)
        evictors = np.array([str(getattr(record, name)) for record in found.records])
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
                key: round(count / int(found.requests.prompt_tokens[masks[owner]].sum()), 6)
                for key, count in of.items()
            }
            for owner, of in tokens.items()
        }
    return row


def hash_row(study: Study, point: Point) -> Row:
    """A trace of hash ids, raw blocks."""
    view = study.view(point)._replace(part=point.detail, raw_blocks=True)
    capacity = capacity_of(point.capacity, view)
    found = asked(view)
    outcome = serve_cache(found.requests, found.chains, found.records, settings(study, point, view, capacity))
    row = begin(study, point, view, capacity) | {"part": point.detail}
    row |= summary_row(outcome.rows, view.block_size, 0.0) | outcome.tail
    for name in ("by_turn", "by_session", "by_workload", "by_tenant"):
        del row[name]
    hits = np.array([values["hit_tokens"] for values in outcome.rows])
    parts = {"token_hit_rate": hits, "gain_over_lru": hits - hit_tokens(view, "lru", capacity)}
    return row | ratios(parts, found.requests.prompt_tokens, found.sessions)
