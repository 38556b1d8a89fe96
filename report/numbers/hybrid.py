"""Numbers of the hybrid: its constants, what it can lose against LRU, what it saves."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from milestone3_code.study.table import FLOOR, distinct, random_runs
from report.numbers.mixed import BLOCK, MAIN, MAKER, RANGE
from report.numbers.rows import Rows, values
from report.numbers.texts import MINUS, between, number, percent, points, rate, signed, spaced
from vllm_sim.eviction.hazard_classes import AGES, MOST_ROWS
from vllm_sim.eviction.policies.hybrid import USES, Hybrid
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.bootstrap import ratio_intervals

Numbers = dict[str, Any]
RANDOM_ENDS = ("2%", "80%")
"""Capacities of random traffic that do not count for its gap, as in the mixes."""
UNGUARDED, ONE_END = "hybrid without guard", "hybrid without both ends"
GIB = 2**30


def policy_numbers() -> Numbers:
    """The policy's constants, out of its code."""
    defaults = inspect.signature(Hybrid).parameters
    names = [name for name in defaults if name != "context"]
    values_of = {name: f"{defaults[name].default:g}" for name in names}
    small, large = Hybrid(PolicyContext(1, 1)), Hybrid(PolicyContext(2**20, 1))
    return values_of | {
        "uses": str(USES),
        "ages": str(AGES),
        "classes": number(MOST_ROWS),
        "buckets": _buckets(small),
        "refresh": f"{large.refresh_blocks / 2**20:g}",
        "refresh_least": number(small.refresh_blocks),
    }


def _buckets(policy: Hybrid) -> str:
    """The use counts of each bucket."""
    counts: dict[int, list[int]] = {}
    for count in range(1, 100):
        counts.setdefault(policy.bucket(count), []).append(count)
    *groups, last = counts.values()
    found = [f"{group[0]}" if len(group) == 1 else f"{group[0]} to {group[-1]}" for group in groups]
    return ", ".join([*found, f"{last[0]} and more"])


def hybrid_numbers(results: Path) -> Numbers:
    """Everything that the chapter on the hybrid's results cites.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed.jsonl", MAKER)
    return {
        "guarantee": _guarantee(rows),
        "random": _random(rows),
        "bytes": _bytes(rows),
        "from": spaced(RANGE[0]),
        "to": spaced(RANGE[-1]),
        "aim_floor": points(-FLOOR, 1).lstrip("+"),
    }


def _guarantee(rows: Rows) -> Numbers:
    chosen, tagged = distinct(rows.rows), rows.pick("guarantee")
    worst = min(chosen, key=lambda row: row["gain_over_lru"])
    best = max(chosen, key=lambda row: row["gain_over_lru"])
    below = [row for row in chosen if row["gain_over_lru"] < FLOOR]
    table = []
    for size in sorted(values(chosen, "block_size")):
        for whole in (True, False):
            own = [row for row in chosen if row["block_size"] == size and (row["workload"] is None) == whole]
            gains = [row["gain_over_lru"] for row in own]
            lost = sum(gain < 0 for gain in gains)
            cells = [number(len(own)), number(lost), number(sum(gain < FLOOR for gain in gains))]
            least, most = (signed(100 * value) for value in (min(gains), max(gains)))
            table.append(
                [str(size), "mixes" if whole else "alone", *cells, least, signed(100 * sum(gains) / len(gains)), most]
            )
    tags = {(row["mix"], row["block_size"], row["capacity"]): set[str]() for row in tagged if row["workload"] is None}
    for row in tagged:
        if row["workload"] is None:
            tags[row["mix"], row["block_size"], row["capacity"]].add(row["hits_sha256"])
    return {
        "table": table,
        "cells": number(len(chosen)),
        "met": not below,
        "below": number(len(below)),
        "telling": number(sum(row["gain_over_lru"] != 0 for row in chosen)),
        "unsure": number(sum(row["gain_over_lru_ci95"][0] < FLOOR for row in chosen)),
        "worst": points(worst["gain_over_lru"]),
        "worst_size": points(worst["gain_over_lru"]).lstrip(MINUS),
        "worst_where": _where(worst),
        "best": points(best["gain_over_lru"], 1),
        "tags_matter": any(len(found) > 1 for found in tags.values()),
    }


def _random(rows: Rows) -> Numbers:
    """All policies over random traffic; each traffic counts alike."""
    chosen = random_runs(rows.pick("random"))
    middle = [row for row in chosen if row["capacity"] not in RANDOM_ENDS]
    seeds = np.array([row["mix_seed"] for row in middle])
    gaps = np.array([row["belady_hit_rate"] - row["lru_hit_rate"] for row in middle])
    table, below, least, shares = [], {}, {}, {}
    for name in chosen[0]["gains_over_lru"]:
        gains = [row["gains_over_lru"][name] for row in chosen]
        won = np.array([row["gains_over_lru"][name] for row in middle])
        (interval,) = ratio_intervals(won[None], gaps[None], seeds)
        shares[name] = float(won.sum() / gaps.sum())
        closed = rate(shares[name])
        below[name], least[name] = sum(gain < FLOOR for gain in gains), min(gains)
        cells = [f"{closed} ({between(interval)})", number(below[name])]
        table.append([f"`{name}`", *cells, signed(100 * least[name]), signed(100 * max(gains), 1)])
    worst = min(chosen, key=lambda row: row["gains_over_lru"]["hybrid"])
    return {
        "table": table,
        "traffics": number(len({row["mix_seed"] for row in chosen})),
        "cells": number(len(chosen)),
        "below": number(below["hybrid"]),
        "met": below["hybrid"] == 0,
        "worst": points(least["hybrid"]),
        "worst_where": f"traffic {worst['mix_seed']}, capacity {spaced(worst['capacity'])}",
        "unguarded_below": number(below[UNGUARDED]),
        "unguarded": points(least[UNGUARDED]),
        "guard_price": points(shares[UNGUARDED] - shares["hybrid"], 1).lstrip("+"),
        "one_end": number(below[ONE_END]),
        "one_end_worst": points(least[ONE_END]),
        "one_end_price": points(shares["hybrid"] - shares[ONE_END], 1).lstrip("+"),
        "guard_holds": below[UNGUARDED] > below["hybrid"] and least[UNGUARDED] < least["hybrid"],
        "from": spaced(middle[0]["capacity"]),
        "to": spaced(values(middle, "capacity")[-1]),
    }


def _place(row: Row) -> list[str]:
    return [row["mix"], row["workload"] or "whole mix", str(row["block_size"]), spaced(row["capacity"])]


def _where(row: Row) -> str:
    mix, workload, size, capacity = _place(row)
    subject = f"mix {mix}" if row["workload"] is None else f"{workload} of mix {mix} alone"
    return f"{subject}, blocks of {size}, capacity {capacity}"


def _bytes(rows: Rows) -> Numbers:
    """The capacity that LRU needs for the hybrid's hit rate."""
    chosen = rows.pick("bytes", block_size=BLOCK)
    table = []
    for mix in values(chosen, "mix"):
        own = [row for row in chosen if row["mix"] == mix and row["capacity"] in RANGE]
        cells = [f"{number(row['saved_bytes'] / GIB, 2)} ({rate(row['saved_share'])}%)" for row in own]
        table.append([mix, *cells])
    main = [row for row in chosen if row["capacity"] == MAIN]
    saved = sum(row["saved_bytes"] for row in main) / sum(row["lru_bytes"] for row in main)
    shares = [row["saved_share"] for row in main]
    return {
        "head": ["mix", *(spaced(c) for c in RANGE)],
        "table": table,
        "saved": percent(saved),
        "least": percent(min(shares)),
        "most": percent(max(shares)),
        "at": spaced(MAIN),
        "negative": any(row["saved_bytes"] < 0 for row in chosen if row["capacity"] == RANGE[-1]),
    }
