"""Numbers of the ablations, of cold starts, and of workloads that change during a run."""

from pathlib import Path
from typing import Any

from report.numbers.mixed import BLOCK, MAIN, MAKER
from report.numbers.rows import Rows, values
from report.numbers.texts import number, points, signed, spaced
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
KINDS = {
    "shift": "the workloads change in the middle",
    "scan": "many one-off calls come all the time",
    "burst": "one tenant's calls all come at once in the middle",
}

COLD = "5%"
NO_BOUND = 1e6


def ablation_numbers(results: Path) -> Numbers:
    """Everything that the chapter on ablations cites.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed.jsonl", MAKER)
    return {"parts": _parts(rows), "cold": _cold(rows), "windows": _windows(rows), "capacity": spaced(MAIN)}


def _parts(rows: Rows) -> Numbers:
    """Each variant over all mixes and capacities: mean gain over LRU, mean and worst difference from the default."""
    chosen = rows.pick("ablation", block_size=BLOCK)
    table, changes, least = [], {}, {}
    for variant in values(chosen, "variant"):
        own = [row for row in chosen if row["variant"] == variant]
        over_lru = [row["gain_over_lru"] for row in own]
        over_default = [row["gain_over_default"] for row in own]
        changes[variant], least[variant] = mean(over_default), min(over_lru)
        cells = [signed(100 * mean(over_lru)), signed(100 * mean(over_default)), signed(100 * min(over_lru))]
        table.append([variant, _params(own[0]), *cells])
    parts = {name: change for name, change in changes.items() if name.startswith("without")}
    scales = {name: change for name, change in changes.items() if name.startswith(("half", "double"))}
    most = min(parts, key=lambda name: parts[name])
    touchy = max(scales, key=lambda name: abs(scales[name]))
    return {
        "table": table,
        "cells": number(len(chosen) / len(changes)),
        "capacities": [spaced(capacity) for capacity in values(chosen, "capacity")],
        "most": most.removeprefix("without "),
        "most_lost": points(-parts[most]).lstrip("+"),
        "useless": [name.removeprefix("without ") for name, change in parts.items() if change >= 0],
        "guarded": points(least["default"]),
        "unguarded": points(least["without guard"]),
        "guard_holds": least["default"] > least["without guard"],
        "touchy": touchy,
        "touchy_change": points(scales[touchy]),
    }


def _params(row: Row) -> str:
    params = row.get("policy_params") or {}
    return ", ".join(f"{name} = {'no bound' if value > NO_BOUND else f'{value:g}'}" for name, value in params.items())


def mean(found: list[float]) -> float:
    """The mean."""
    return sum(found) / len(found)


def _cold(rows: Rows) -> Numbers:
    """Gains over LRU in the first tenth of the requests and in the rest, at a capacity that is full soon."""
    chosen = rows.pick("cold_start", capacity=COLD, block_size=BLOCK)
    policies = [name for name in values(chosen, "policy") if name != "lru"]
    table = []
    for mix in values(chosen, "mix"):
        cells = []
        for policy in policies:
            row = rows.one("cold_start", mix=mix, capacity=COLD, policy=policy, block_size=BLOCK)
            cells += [signed(100 * row["first_gain_over_lru"]), signed(100 * row["rest_gain_over_lru"])]
        table.append([mix, *cells])
    hybrid, opt = ([row for row in chosen if row["policy"] == name] for name in ("hybrid", "belady"))
    return {
        "head": ["mix", *(f"{policy}, {part}" for policy in policies for part in ("first", "rest"))],
        "table": table,
        "first": points(mean([row["first_gain_over_lru"] for row in hybrid])),
        "rest": points(mean([row["rest_gain_over_lru"] for row in hybrid])),
        "belady_first": points(mean([row["first_gain_over_lru"] for row in opt])),
        "belady_rest": points(mean([row["rest_gain_over_lru"] for row in opt])),
        "capacity": spaced(COLD),
    }


def _windows(rows: Rows) -> Numbers:
    """The hybrid's gain over each run, and its worst window, at the main capacity."""
    chosen = rows.pick("windows", capacity=MAIN, block_size=BLOCK, policy="hybrid")
    return {
        "whole": [f"{points(row['gain_over_lru'])} where {KINDS[row['kind']]}" for row in chosen],
        "count": number(len(chosen[0]["gains_over_lru"])),
        "worst": points(min(gain for row in chosen for gain in row["gains_over_lru"])),
    }
