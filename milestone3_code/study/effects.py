"""Rows on the fast backend: what isolation costs, the guarantee, ablations, changes over the run, and bytes saved."""

import hashlib
import json

import numpy as np

from milestone3_code.study.cache_rows import begin, ratios, shares
from milestone3_code.study.study import Point, Study
from milestone3_code.study.view import BURST, capacity_of, curve, hit_tokens, requests_of
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.capacity import kv_bytes_a_token

WINDOWS = 20


def isolation_row(study: Study, point: Point) -> Row:
    """What salts cost."""
    whole = study.view(point)
    view = whole._replace(tenants=point.detail)
    capacity = capacity_of(point.capacity, whole)
    hits = hit_tokens(view, point.policy, capacity)
    parts = {"token_hit_rate": hits, "cost": hit_tokens(whole, point.policy, capacity) - hits}
    row = begin(study, point, view, capacity)
    row |= {"tenants": point.detail, "salts": len(np.unique(requests_of(view).requests.salt))}
    return row | shares(view, parts)


def guarantee_row(study: Study, point: Point) -> Row:
    """The hybrid against LRU at one point."""
    view = study.view(point)._replace(workload=point.workload, tags=point.detail)
    capacity = capacity_of(point.capacity, view)
    hits, lru = hit_tokens(view, point.policy, capacity), hit_tokens(view, "lru", capacity)
    parts = {"token_hit_rate": hits, "lru_hit_rate": lru, "gain_over_lru": hits - lru}
    mark = hashlib.sha256(json.dumps(hits.tolist()).encode()).hexdigest()[:16]
    row = begin(study, point, view, capacity) | {"tags": point.detail} | shares(view, parts)
    del row["token_hit_rate_ci95"], row["lru_hit_rate_ci95"]
    return row | {"hits_sha256": mark}


def ablation_row(study: Study, point: Point) -> Row:
    """One variant of the hybrid."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    hits = hit_tokens(view, point.policy, capacity, point.params)
    parts = {
        "token_hit_rate": hits,
        "gain_over_lru": hits - hit_tokens(view, "lru", capacity),
        "gain_over_default": hits - hit_tokens(view, point.policy, capacity),
    }
    row = begin(study, point, view, capacity) | {"variant": point.detail} | shares(view, parts)
    del row["token_hit_rate_ci95"], row["gain_over_lru_ci95"]
    return row


def cold_start_row(study: Study, point: Point) -> Row:
    """The first tenth of the requests apart."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    hits, shown = hit_tokens(view, point.policy, capacity), requests_of(view)
    gain = hits - hit_tokens(view, "lru", capacity)
    row = begin(study, point, view, capacity)
    is_first = np.arange(len(hits)) < len(hits) // 10
    for name, mask in (("first", is_first), ("rest", ~is_first)):
        parts = {f"{name}_hit_rate": hits, f"{name}_gain_over_lru": gain}
        row |= ratios(parts, shown.requests.prompt_tokens, shown.sessions, {name: mask})[name]
    return row


def windows_row(study: Study, point: Point) -> Row:
    """Rates over the run, in windows of equally many requests."""
    plain = study.view(point)
    view = plain._replace(burst=point.detail == "burst")
    capacity = capacity_of(point.capacity, plain)
    hits, shown = hit_tokens(view, point.policy, capacity), requests_of(view)
    gain, prompt = hits - hit_tokens(view, "lru", capacity), shown.requests.prompt_tokens
    parts = np.array_split(np.arange(len(hits)), WINDOWS)
    row = begin(study, point, view, capacity) | {"kind": point.detail}
    row["hit_rates"] = [round(float(hits[part].sum() / prompt[part].sum()), 6) for part in parts]
    row["gains_over_lru"] = [round(float(gain[part].sum() / prompt[part].sum()), 6) for part in parts]
    calls = np.array([record.workload == BURST for record in shown.records])
    row["burst_windows"] = [i for i, part in enumerate(parts) if view.burst and calls[part].mean() > 0.5]
    return row | shares(view, {"token_hit_rate": hits, "gain_over_lru": gain})


def bytes_row(study: Study, point: Point) -> Row:
    """How much cache LRU needs for the hit rate of the policy."""
    view = study.view(point)
    capacity = capacity_of(point.capacity, view)
    assert capacity is not None
    hits, lru = hit_tokens(view, point.policy, capacity), curve(view)
    enough = np.flatnonzero(lru.hit_tokens >= hits.sum())
    blocks = int(lru.capacity_blocks[enough[0] if enough.size else -1])
    size = kv_bytes_a_token(study.model) * view.block_size
    row = begin(study, point, view, capacity) | {"lru_blocks": blocks, "lru_bytes": blocks * size}
    row |= {"capacity_bytes": capacity * size, "saved_bytes": (blocks - capacity) * size}
    row["saved_share"] = round(1 - capacity / blocks, 6)
    return row | shares(view, {"token_hit_rate": hits})
