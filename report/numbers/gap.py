"""Numbers of the main result: the share of the gap between LRU and the optimum that a policy closes, over seeds."""

from itertools import pairwise
from pathlib import Path
from typing import Any

from milestone3_code.study.table import AIM, ALL, LEAST_GAP
from report.numbers.mixed import BLOCK, MAKER, RANGE
from report.numbers.rows import Rows, values
from report.numbers.texts import MINUS, between, number, percent, points, rate, spaced
from report.numbers.units import device_numbers, saved_numbers, unit_table
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
WORST = -0.02
"""The aim that was set before for any workload of a mix."""
NEAR_ZERO = 0.0005
SURE = 0.05
"""A p of the sign test below which the text says that one policy is ahead."""


def gap_numbers(results: Path) -> Numbers:
    """Everything that the chapters cite of the gap.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed_gap.jsonl", MAKER)
    whole = rows.one("gap", policy="hybrid", mix=ALL, block_size=BLOCK, capacity=None)
    online = [name for name in values(rows.pick("gap"), "policy") if name not in ("lru", "belady", "hybrid")]
    sums = {name: rows.one("gap", policy=name, mix=ALL, block_size=BLOCK, capacity=None) for name in online}
    second = max(sums.values(), key=lambda row: row["gap_closed"])
    cells = [_capacity(rows, capacity, second["policy"]) for capacity in RANGE]
    shown = [cell for cell in cells if cell["drawn"]]
    losses = [_at(rows, mix, "10%", "belady")["gain_over_lru"] for mix in _mixes(rows)]
    return {
        "seeds": number(whole["seeds"]),
        "from": spaced(RANGE[0]),
        "to": spaced(RANGE[-1]),
        "closed": percent(whole["gap_closed"]),
        "interval": between(whole["gap_closed_ci95"]),
        "compute_closed": percent(whole["compute_gap_closed"]),
        "met": whole["gap_closed"] >= AIM,
        "aim": "a third",
        "first": whole["gap_closed"] > second["gap_closed"],
        "second": second["policy"],
        "second_closed": percent(second["gap_closed"]),
        "lead": points(second["hybrid_lead"], 1).lstrip("+"),
        "lead_interval": between(second["hybrid_lead_ci95"]),
        "ahead": number(second["hybrid_ahead_seeds"]),
        "is_ahead": second["hybrid_sign_p"] < SURE and second["hybrid_lead"] > 0,
        "head": ["policy", *_mixes(rows), "all", *(f"all, {size}" for size in _sizes(rows) if size != BLOCK)],
        "table": [
            _line(rows, name) for name in ("hybrid", *sorted(online, key=lambda name: -sums[name]["gap_closed"]))
        ],
        "capacities": cells,
        "drawn": shown,
        "small_first": all(one["gap_tokens"] > other["gap_tokens"] for one, other in pairwise(cells)),
        "least": number(100 * LEAST_GAP),
        "first_share": shown[0]["hybrid"],
        "last_share": shown[-1]["hybrid"],
        "last": shown[-1]["capacity"],
        "least_loss": number(100 * min(losses), 1),
        "most_loss": points(max(losses), 1).lstrip("+"),
        "rivals": _rivals(rows, online),
        "pairs": number(len(_mixes(rows)) * len(_sizes(rows))),
        "units": unit_table(rows, _mixes(rows), LEAST_GAP),
        "devices": device_numbers(rows, _mixes(rows)),
        "saved": saved_numbers(rows, [*_mixes(rows), ALL]),
        "workloads": _workloads(rows),
    }


def _mixes(rows: Rows) -> list[str]:
    return [mix for mix in values(rows.pick("gap"), "mix") if mix != ALL]


def _sizes(rows: Rows) -> list[int]:
    return sorted(values(rows.pick("gap"), "block_size"))


def _at(rows: Rows, mix: str, capacity: str | None, policy: str, size: int = BLOCK) -> Row:
    return rows.one("gap", mix=mix, capacity=capacity, policy=policy, block_size=size)


def _line(rows: Rows, policy: str) -> list[str]:
    """A policy's shares: of each mix, of all with its interval, of all at other block sizes."""
    whole = _at(rows, ALL, None, policy)
    by_mix = [rate(_at(rows, mix, None, policy)["gap_closed"]) for mix in _mixes(rows)]
    others = []
    for size in _sizes(rows):
        wanted = {"mix": ALL, "capacity": None, "policy": policy, "block_size": size}
        if size != BLOCK:
            found = [row for row in rows.rows if all(row[name] == value for name, value in wanted.items())]
            others.append(rate(found[0]["gap_closed"]) if found else "")
    return [f"`{policy}`", *by_mix, f"{rate(whole['gap_closed'])} ({between(whole['gap_closed_ci95'])})", *others]


def _capacity(rows: Rows, capacity: str, second: str) -> Numbers:
    """All mixes at one capacity."""
    best, hybrid, other = (_at(rows, ALL, capacity, name) for name in ("belady", "hybrid", second))
    total = _at(rows, ALL, None, "belady")["gap_tokens"]
    return {
        "capacity": spaced(capacity),
        "gap": points(best["gain_over_lru"], 1).lstrip("+"),
        "weight": percent(best["gap_tokens"] / total, 0),
        "hybrid": percent(hybrid["gap_closed"], 0),
        "second": percent(other["gap_closed"], 0),
        "gap_tokens": best["gap_tokens"],
        "drawn": best["gain_over_lru"] >= LEAST_GAP,
    }


def _rivals(rows: Rows, online: list[str]) -> list[str]:
    """Where another online policy closes more of the gap, by mix and block size."""
    found = []
    for mix in _mixes(rows):
        for size in _sizes(rows):
            chosen = [row for row in rows.pick("gap", mix=mix, block_size=size) if row["capacity"] is None]
            best = max((row for row in chosen if row["policy"] in (*online, "hybrid")), key=lambda r: r["gap_closed"])
            if best["policy"] != "hybrid":
                own = _at(rows, mix, None, "hybrid", size)
                shares = f"{rate(best['gap_closed'])} against {rate(own['gap_closed'])}"
                found.append(f"{best['policy']} in {mix} at blocks of {size} ({shares})")
    return found


def _workloads(rows: Rows) -> Numbers:
    """What the hybrid gives to each workload of a mix and takes from it, against LRU."""
    cells = [
        (part["gain_over_lru"], mix, capacity, name, part)
        for mix in _mixes(rows)
        for capacity in RANGE
        for name, part in _at(rows, mix, capacity, "hybrid")["by_workload"].items()
    ]
    losing = sorted((cell for cell in cells if cell[0] < WORST), key=lambda cell: cell[0])
    worst, best = (end(cells, key=lambda cell: cell[0]) for end in (min, max))
    _, mix, capacity, name, part = worst
    there = {policy: _at(rows, mix, capacity, policy) for policy in ("lru", "hybrid", "belady")}
    arc = _gains(rows, "arc")
    return {
        "met": not losing,
        "losing": number(len(losing)),
        "cells": number(len(cells)),
        "losers": list(dict.fromkeys(cell[3] for cell in losing)),
        "worst": points(worst[0], 1),
        "worst_size": points(worst[0], 1).lstrip(MINUS),
        "worst_interval": between(part["gain_over_lru_ci95"]),
        "worst_where": f"{name} in mix {mix} at {spaced(capacity)}",
        "best": points(best[0], 1),
        "best_where": f"{best[3]} in mix {best[1]} at {spaced(best[2])}",
        "there": {policy: rate(row["by_workload"][name]["token_hit_rate"]) for policy, row in there.items()},
        "there_gain": points(there["hybrid"]["gain_over_lru"]),
        "belady_takes": min(_gains(rows, "belady")) < -NEAR_ZERO,
        "arc_worst": points(min(arc), 1),
        "arc_losing": number(sum(gain < WORST for gain in arc)),
        "aim": points(-WORST, 0).lstrip("+"),
    }


def _gains(rows: Rows, policy: str) -> list[float]:
    places = [(mix, capacity) for mix in _mixes(rows) for capacity in RANGE]
    return [part["gain_over_lru"] for place in places for part in _at(rows, *place, policy)["by_workload"].values()]
