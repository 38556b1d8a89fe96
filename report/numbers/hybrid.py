"""Numbers of the hybrid: the gap that it closes, its guarantee, what it means for users."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from milestone3_code.study.study import CELLS, GAPS
from milestone3_code.study.table import distinct
from report.numbers.mixed import BLOCK, MAIN, MAKER, RANGE
from report.numbers.rows import Rows, values
from report.numbers.texts import between, number, percent, points, rate, signed, spaced
from vllm_sim.eviction.hazard_classes import AGES, MOST_ROWS
from vllm_sim.eviction.policies.hybrid import USES, Hybrid
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.bootstrap import ratio_intervals

Numbers = dict[str, Any]
AIM_GAP, FLOOR, WORST = 1 / 3, -0.005, -0.02
"""The aims that were set before: of the gap; against LRU in any cell; for any workload of a mix."""
RANDOM_ENDS = ("2%", "80%")
"""Capacities of random traffic that do not count for its gap, as in the mixes."""
NEAR_ZERO = 0.0005
UNGUARDED = "hybrid without guard"
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
    rows, gaps = (Rows(results / name, MAKER) for name in (CELLS, GAPS))
    return {
        "gap": _gap(gaps),
        "rivals": _rivals(gaps),
        "guarantee": _guarantee(rows),
        "random": _random(rows),
        "workloads": _workloads(rows),
        "bytes": _bytes(rows),
        "from": spaced(RANGE[0]),
        "to": spaced(RANGE[-1]),
        "aim_gap": "a third",
        "aim_floor": points(-FLOOR, 1).lstrip("+"),
        "aim_workload": points(-WORST, 0).lstrip("+"),
    }


def _gap(rows: Rows) -> Numbers:
    """The share of the gap between LRU and the optimum that each policy closes, by mix and block size."""
    chosen = rows.pick("gap", capacity=None)
    mixes, sizes = values(chosen, "mix"), values(chosen, "block_size")
    table, sums, main = [], {}, {"block_size": BLOCK, "capacity": None}
    for policy in values(chosen, "policy"):
        if policy in ("lru", "belady"):
            continue
        by_mix = [_share(rows.one("gap", policy=policy, mix=mix, **main)) for mix in mixes if mix != "all"]
        whole = rows.one("gap", policy=policy, mix="all", **main)
        shown = [row for row in chosen if (row["policy"], row["mix"]) == (policy, "all")]
        by_size = {row["block_size"]: _share(row) for row in shown}
        others = [by_size.get(size, "") for size in sizes if size != BLOCK]
        sums[policy] = whole["gain_tokens"]
        table.append([f"`{policy}`", *by_mix, f"{_share(whole)} ({between(whole['gap_closed_ci95'])})", *others])
    hybrid = rows.one("gap", policy="hybrid", mix="all", **main)
    second = max((name for name in sums if name != "hybrid"), key=lambda name: sums[name])
    return {
        "head": [
            "policy",
            *(mix for mix in mixes if mix != "all"),
            "all (95\N{NARROW NO-BREAK SPACE}%)",
            *(f"all, {size}" for size in sizes if size != BLOCK),
        ],
        "table": table,
        "closed": percent(hybrid["gap_closed"]),
        "interval": f"{between(hybrid['gap_closed_ci95'])}",
        "met": hybrid["gap_closed"] >= AIM_GAP,
        "first": sums["hybrid"] > max(count for name, count in sums.items() if name != "hybrid"),
        "second": second,
        "second_closed": percent(rows.one("gap", policy=second, mix="all", **main)["gap_closed"]),
    }


def _rivals(rows: Rows) -> list[str]:
    """Where another online policy closes more of the gap, by mix and block size."""
    chosen = [
        row for row in rows.pick("gap", capacity=None) if row["mix"] != "all" and row["policy"] not in ("lru", "belady")
    ]
    found = []
    for mix, size in dict.fromkeys((row["mix"], row["block_size"]) for row in chosen):
        own = [row for row in chosen if (row["mix"], row["block_size"]) == (mix, size)]
        best = max(own, key=lambda row: row["gain_tokens"])
        if best["policy"] != "hybrid":
            hybrid = next(row for row in own if row["policy"] == "hybrid")
            shares = f"{_share(best)} against {_share(hybrid)} per cent"
            found.append(f"{best['policy']} in mix {mix} at blocks of {size} ({shares})")
    return found


def _share(row: Row) -> str:
    return number(row["gap_closed"] * 100, 1)


def _guarantee(rows: Rows) -> Numbers:
    every = rows.pick("guarantee")
    chosen = distinct(every)
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
    tags = {(row["mix"], row["block_size"], row["capacity"]): set[str]() for row in every if row["workload"] is None}
    for row in every:
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
        "worst_where": _where(worst),
        "best": points(best["gain_over_lru"], 1),
        "below_table": [[*_place(row), signed(row["gain_over_lru"] * 100)] for row in below[:8]],
        "tags_matter": any(len(found) > 1 for found in tags.values()),
    }


def _random(rows: Rows) -> Numbers:
    """All policies over random traffic; each traffic counts alike."""
    chosen = rows.pick("random")
    middle = [row for row in chosen if row["capacity"] not in RANDOM_ENDS]
    seeds = np.array([row["seed"] for row in middle])
    gaps = np.array([row["belady_hit_rate"] - row["lru_hit_rate"] for row in middle])
    table, below, least = [], {}, {}
    for name in chosen[0]["gains_over_lru"]:
        gains = [row["gains_over_lru"][name] for row in chosen]
        won = np.array([row["gains_over_lru"][name] for row in middle])
        (interval,) = ratio_intervals(won[None], gaps[None], seeds)
        closed = number(100 * float(won.sum() / gaps.sum()), 1)
        below[name], least[name] = sum(gain < FLOOR for gain in gains), min(gains)
        cells = [f"{closed} ({between(interval)})", number(below[name])]
        table.append([name, *cells, signed(100 * least[name]), signed(100 * max(gains), 1)])
    worst = min(chosen, key=lambda row: row["gains_over_lru"]["hybrid"])
    return {
        "table": table,
        "traffics": number(len({row["seed"] for row in chosen})),
        "cells": number(len(chosen)),
        "below": number(below["hybrid"]),
        "met": below["hybrid"] == 0,
        "worst": points(least["hybrid"]),
        "worst_where": f"traffic {worst['seed']}, capacity {spaced(worst['capacity'])}",
        "unguarded_below": number(below[UNGUARDED]),
        "unguarded": points(least[UNGUARDED]),
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


def _workloads(rows: Rows) -> Numbers:
    """What the hybrid gives to each workload of a mix and takes from it, against LRU."""
    chosen = [row for row in rows.pick("mix", policy="hybrid", block_size=BLOCK) if row["capacity"] in RANGE]
    parts = [(part["gain_over_lru"], row, name, part) for row in chosen for name, part in row["by_workload"].items()]
    losing = sorted((part for part in parts if part[0] < WORST), key=lambda part: part[0])
    worst = min(parts, key=lambda part: part[0])
    best = max(parts, key=lambda part: part[0])
    cell = {"mix": worst[1]["mix"], "capacity": worst[1]["capacity"], "block_size": BLOCK}
    rates_there = {
        policy: rate(rows.one("mix", policy=policy, **cell)["by_workload"][worst[2]]["token_hit_rate"])
        for policy in ("lru", "hybrid", "belady")
    }
    others = {policy: _workload_gains(rows, policy) for policy in ("belady", "arc")}
    return {
        "there": rates_there,
        "there_gain": points(worst[1]["gain_over_lru"]),
        "there_interval": between(worst[1]["gain_over_lru_ci95"]),
        "there_sure": worst[1]["gain_over_lru_ci95"][0] > 0,
        "belady_takes": min(others["belady"]) < -NEAR_ZERO,
        "arc_worst": points(min(others["arc"]), 1),
        "arc_losing": number(sum(gain < WORST for gain in others["arc"])),
        "met": not losing,
        "losing": number(len(losing)),
        "cells": number(len(parts)),
        "losers": list(dict.fromkeys(name for _, _, name, _ in losing)),
        "worst": points(worst[0], 1),
        "worst_where": f"{worst[2]} in mix {worst[1]['mix']} at {spaced(worst[1]['capacity'])}",
        "worst_share": percent(worst[3]["prompt_tokens"] / worst[1]["prompt_tokens"]),
        "best": points(best[0], 1),
        "best_where": f"{best[2]} in mix {best[1]['mix']} at {spaced(best[1]['capacity'])}",
        "whole_worst": points(min(row["gain_over_lru"] for row in chosen)),
    }


def _workload_gains(rows: Rows, policy: str) -> list[float]:
    chosen = [row for row in rows.pick("mix", policy=policy, block_size=BLOCK) if row["capacity"] in RANGE]
    return [part["gain_over_lru"] for row in chosen for part in row["by_workload"].values()]


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
    return {
        "head": ["mix", *(spaced(c) for c in RANGE)],
        "table": table,
        "saved": percent(saved),
        "at": spaced(MAIN),
        "negative": any(row["saved_bytes"] < 0 for row in chosen if row["capacity"] == RANGE[-1]),
    }
