"""Numbers of the engine under the mixes: hit rates and times where requests overlap."""

from pathlib import Path
from statistics import mean
from typing import Any

from milestone3_code.study.table import engine_shares
from report.numbers.mixed import MAKER, RANGE
from report.numbers.rows import Rows, values
from report.numbers.texts import between, number, percent, points, rate, signed, spaced, timed
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]


def engine_numbers(results: Path) -> Numbers:
    """Gains and times of the whole engine, by load, capacity and policy.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "mixed_engine.jsonl", MAKER)
    chosen = rows.pick("engine")
    hybrid = [row for row in chosen if row["policy"] == "hybrid"]
    best, worst = (end(hybrid, key=lambda row: row["gain_over_lru"]) for end in (max, min))
    sure = [row for row in hybrid if row["gain_over_lru_ci95"][0] > 0]
    lost = [row for row in hybrid if row["gain_over_lru_ci95"][1] < 0]
    optimum = [row for row in chosen if row["policy"] == "belady"]
    first, shares = chosen[0], engine_shares(chosen)
    main = min(shares)
    return {
        "cells": number(len(hybrid)),
        "sure": number(len(sure)),
        "lost": number(len(lost)),
        "best": points(best["gain_over_lru"], 1),
        "best_where": _where(best),
        "worst": points(worst["gain_over_lru"], 1),
        "worst_where": _where(worst),
        "closed": [f"{percent(one['hybrid'])} at load {load:g}" for load, one in shares.items()],
        "closed_main": percent(shares[main]["hybrid"]),
        "main_leader": _leader(shares[main]),
        "leaders": [f"{_leader(one)} at load {load:g}" for load, one in shares.items() if _leader(one)],
        "head": ["mix", "load", "running", *(spaced(capacity) for capacity in RANGE), *TIMED_HEAD],
        "table": [_line(rows, mix, load) for mix in values(chosen, "mix") for load in values(chosen, "load")],
        "timed": spaced(TIMED),
        "ttft": _ttft(hybrid),
        "policies": _policies(chosen),
        "policies_head": ["policy", *(f"load {load:g}, {spaced(at)}" for load in _loads(chosen) for at in RANGE)],
        "by_workload": _by_workload(rows, chosen),
        "device": first["device"].upper(),
        "window": number(first["seconds"] - first["warmup_s"]),
        "warmup": number(first["warmup_s"]),
        "below": number(sum(row["gain_over_lru"] < 0 for row in optimum)),
        "settled": number(sum(row["future_settled"] for row in optimum)),
        "retokenised": percent(max(row["retokenised_tokens"] / row["prompt_tokens"] for row in chosen), 2),
    }


TIMED = "10%"
TIMED_HEAD = ("TTFT p50, ms",)


def _loads(chosen: list[Row]) -> list[float]:
    return values(chosen, "load")


def _where(row: Row) -> str:
    return f"{row['mix']} at {spaced(row['capacity'])}, load {row['load']:g}"


def _line(rows: Rows, mix: str, load: float) -> list[str]:
    """The hybrid's gains at every capacity, and median times to first token at one."""
    cells = []
    for capacity in RANGE:
        row = rows.one("engine", mix=mix, load=load, capacity=capacity, policy="hybrid")
        cells.append(f"{signed(100 * row['gain_over_lru'], 1)} ({between(row['gain_over_lru_ci95'])})")
    lru, hybrid = (rows.one("engine", mix=mix, load=load, capacity=TIMED, policy=name) for name in ("lru", "hybrid"))
    times = " / ".join(number(row["ttft_ms_p50"], 1) for row in (lru, hybrid))
    return [mix, f"{load:g}", number(lru["running_requests"], 1), *cells, times]


def _leader(shares: dict[str, float]) -> str:
    """The policy that closes most, if that is another one than the hybrid."""
    policy, share = next(iter(shares.items()))
    return "" if policy == "hybrid" else f"{policy} {percent(share)}"


def _ttft(hybrid: list[Row]) -> Numbers:
    """Mean paired differences of the time to first token."""
    best, worst = (end(hybrid, key=lambda row: row["ttft_over_lru_ms"]) for end in (min, max))
    return {
        name: f"{signed(row['ttft_over_lru_ms'], 1)} ms ({between(row['ttft_over_lru_ms_ci95'], 1.0)}; {_where(row)})"
        for name, row in (("best", best), ("worst", worst))
    } | {"shorter": number(sum(row["ttft_over_lru_ms_ci95"][1] < 0 for row in hybrid))}


def _policies(chosen: list[Row]) -> list[list[str]]:
    """Each policy's mean gain over LRU over the mixes, by load and capacity."""
    table = []
    for policy in values(chosen, "policy"):
        if policy == "lru":
            continue
        cells = []
        for load in _loads(chosen):
            for capacity in RANGE:
                own = [
                    row for row in chosen if (row["policy"], row["load"], row["capacity"]) == (policy, load, capacity)
                ]
                cells.append(signed(100 * mean(row["gain_over_lru"] for row in own)) if own else "")
        table.append([f"`{policy}`", *cells])
    return table


def _by_workload(rows: Rows, chosen: list[Row]) -> list[list[str]]:
    """Hit rate and time to first token of each workload under LRU and the hybrid, at the highest load."""
    table, load = [], max(_loads(chosen))
    for mix in values(chosen, "mix"):
        lru, hybrid = (
            rows.one("engine", mix=mix, load=load, capacity=TIMED, policy=name) for name in ("lru", "hybrid")
        )
        for name, part in hybrid["by_workload"].items():
            base = lru["by_workload"][name]
            cells = [rate(base["token_hit_rate"]), rate(part["token_hit_rate"])]
            cells += [number(row["ttft_ms_p50"], 1) for row in (base, part)]
            cells += [timed(row, "ttft_ms_p90") for row in (base, part)]
            table.append([mix, name, *cells])
    return table
