"""Numbers of traces of hash ids: every policy, and the hybrid on the part that no script tunes on."""

from pathlib import Path
from typing import Any

from milestone3_code.study.names import spoken
from milestone3_code.study.table import LEAST_REAL_GAP
from report.numbers.rows import Rows, values
from report.numbers.texts import between, number, points, rate, signed
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
MAKER = "python milestone3_code/compare_policies.py --hash-trace PATH"
KNOWN = ("lru", "belady", "hybrid")


def hash_numbers(results: Path) -> Numbers:
    """Token hit rates of policies, and shares of the gap on the second half in time.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed_hash.jsonl", MAKER)
    chosen = rows.pick("hash_trace")
    traces = [[row for row in chosen if row["mix"] == name] for name in values(chosen, "mix")]
    second = [row for row in chosen if row["part"] == "second"]
    cells = [_case([row for row in second if _place(row) == place]) for place in dict.fromkeys(map(_place, second))]
    with_gap = [cell for cell in cells if cell["gap"] >= LEAST_REAL_GAP]
    best = max(with_gap, key=lambda cell: cell["closed"])
    sure = [cell for cell in with_gap if cell["hybrid"]["gain_over_lru_ci95"][0] > 0]
    return {
        "traces": [_trace(own) for own in traces],
        "table": [cell["line"] for cell in cells],
        "least": number(100 * LEAST_REAL_GAP, 1),
        "cells": number(len(with_gap)),
        "sure": number(len(sure)),
        "best": number(100 * best["closed"], 1),
        "best_where": f"{best['name']}, {number(best['hybrid']['capacity_blocks'])} blocks",
        "ahead": number(sum(cell["is_first"] for cell in with_gap)),
    }


def _place(row: Row) -> tuple[str, int]:
    return row["mix"], row["capacity_blocks"]


def _case(rows: list[Row]) -> Numbers:
    """One trace at one capacity, on its second half."""
    by_policy = {row["policy"]: row for row in rows}
    lru, best, hybrid = (by_policy[name] for name in KNOWN)
    gap = best["token_hit_rate"] - lru["token_hit_rate"]
    closed = hybrid["gain_over_lru"] / gap if gap else 0.0
    others = [row for row in rows if row["policy"] not in KNOWN]
    other = max(others, key=lambda row: row["gain_over_lru"])
    share = lru["capacity_blocks"] / lru["working_set_blocks"]
    is_shown = gap >= LEAST_REAL_GAP
    gain = f"{signed(100 * hybrid['gain_over_lru'])} ({between(hybrid['gain_over_lru_ci95'], digits=2)})"
    line = [spoken(lru["mix"]), number(lru["capacity_blocks"]), rate(share), rate(lru["token_hit_rate"])]
    line += [rate(best["token_hit_rate"]), gain, rate(closed) if is_shown else ""]
    line.append(f"{other['policy']} {signed(100 * other['gain_over_lru'])}" if is_shown else "")
    is_first = hybrid["gain_over_lru"] > other["gain_over_lru"]
    return {
        "name": spoken(lru["mix"]),
        "gap": gap,
        "closed": closed,
        "hybrid": hybrid,
        "line": line,
        "is_first": is_first,
    }


def _trace(rows: list[Row]) -> Numbers:
    capacities = values(rows, "capacity_blocks")
    parts = [part for part in ("whole", "second") if part in values(rows, "part")]
    table = []
    for policy in values(rows, "policy"):
        rates = {
            (row["part"], row["capacity_blocks"]): rate(row["token_hit_rate"])
            for row in rows
            if row["policy"] == policy
        }
        table.append([f"`{policy}`", *(rates[part, size] for part in parts for size in capacities)])
    second = [row for row in rows if row["part"] == "second"]
    gains = [row["gain_over_lru"] for row in second if row["policy"] == "hybrid"]
    return {
        "name": spoken(rows[0]["mix"]),
        "head": ["policy", *(f"{part}, {number(size)}" for part in parts for size in capacities)],
        "table": table,
        "requests": number(max(row["requests"] for row in rows)),
        "second_requests": number(max((row["requests"] for row in second), default=0)),
        "block_size": number(rows[0]["block_size"]),
        "least_gain": signed(100 * min(gains)),
        "most_gain": points(max(gains)),
    }
