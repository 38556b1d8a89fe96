"""The tables of study two in docs/results.md, made from its rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from milestone3_code.study.study import MAIN_BLOCK
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_rows

MAIN_SHARE = "10%"
GAP_SHARES = ("5%", "10%", "20%", "50%")
FLOOR = -0.005

"""Policies that rows call by their short names."""


class Loss(NamedTuple):
    """What a workload loses in a mix."""

    workload: str
    gain: float
    """Token hit rate over LRU's; below 0."""
    row: Row
    """The row of the mix."""


def section(results: Path) -> str:
    """What each policy closes of the gap, each mix at MAIN_SHARE, and the worst cell, in Markdown.

    Raises:
        ValueError: a row comes from a quick run, or one that is needed is not there.
    """
    rows = read_rows(results / "mixed.jsonl")
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_policies.py without --quick")
    engine = read_rows(results / "mixed_engine.jsonl")
    return "\n\n".join((_gaps(rows), _mixes(rows), _worst(rows), _random(rows), _loser(rows), _engine(engine)))


def _gaps(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row["experiment"] == "gap" and row["mix"] == "all" and row["policy"] != "lru"]
    sizes = sorted({row["block_size"] for row in found})
    by_policy = {(row["policy"], row["block_size"]): row for row in found}
    main = [row for row in found if row["block_size"] == MAIN_BLOCK and row["policy"] != "belady"]
    if not main:
        raise ValueError("no row of gap, all mixes; run compare_policies.py")
    lines = [f"| gap closed | {' | '.join(f'blocks of {size}' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for policy in [row["policy"] for row in sorted(main, key=lambda row: -row["gap_closed"])]:
        cells = [by_policy.get((policy, size)) for size in sizes]
        closed = " | ".join(percent(row, "gap_closed") if row else "" for row in cells)
        lines.append(f"| `{policy}` | {closed} |")
    return "\n".join(lines)


def _mixes(rows: Sequence[Row]) -> str:
    chosen = [row for row in rows if row["block_size"] == MAIN_BLOCK and row["capacity"] == MAIN_SHARE]
    lines = [
        f"| token hit rate at {MAIN_SHARE}, blocks of {MAIN_BLOCK} | LRU | hybrid | optimum | unlimited "
        "| workloads, hybrid - LRU in points |",
        "|---|---|---|---|---|---|",
    ]
    for loss in [row for row in chosen if row["experiment"] == "loss"]:
        hybrid = next(
            row
            for row in chosen
            if row["experiment"] == "mix" and row["policy"] == "hybrid" and row["mix"] == loss["mix"]
        )
        rates = [f"{loss[name]:.3f}" for name in ("lru_hit_rate", "hybrid_hit_rate", "belady_hit_rate")]
        rates.append(f"{loss['unlimited_hit_rate']:.3f}")
        parts = ", ".join(f"{name} {100 * part['gain_over_lru']:+.1f}" for name, part in hybrid["by_workload"].items())
        lines.append(f"| {loss['mix']} | {' | '.join(rates)} | {parts} |")
    return "\n".join(lines)


def _worst(rows: Sequence[Row]) -> str:
    cells = [row for row in rows if row["experiment"] == "guarantee"]
    worst = min(cells, key=lambda row: row["gain_over_lru"])
    what = f"{worst['workload']} of `{worst['mix']}` alone" if worst["workload"] else f"mix `{worst['mix']}`"
    return (
        f"Of {len(cells):,} runs (each mix and each of its workloads alone; the largest request to all of the working "
        f"set; blocks of {min(row['block_size'] for row in cells)} to {max(row['block_size'] for row in cells)}; with "
        f"tags, without, shuffled) the worst for `hybrid` is {100 * worst['gain_over_lru']:+.2f} points of token hit "
        f"rate against LRU: {what}, {worst['capacity_blocks']:,} blocks of {worst['block_size']}."
    )


def _random(rows: Sequence[Row]) -> str:
    cells = [row for row in rows if row["experiment"] == "random"]
    gains = {name: [row["gains_over_lru"][name] for row in cells] for name in ("hybrid", "hybrid without guard", "arc")}
    least = {name: 100 * min(found) for name, found in gains.items()}
    below = {name: sum(gain < FLOOR for gain in found) for name, found in gains.items()}
    return (
        f"On {len({row['seed'] for row in cells})} random traffics that are harder (loops longer than the cache, "
        f"streams that stop) {below['hybrid']} of {len(cells):,} runs are more than half a point under LRU, the worst "
        f"{least['hybrid']:+.2f}; without its guard {below['hybrid without guard']} "
        f"({least['hybrid without guard']:+.2f}), "
        f"under `arc` {below['arc']} ({least['arc']:+.2f})."
    )


def lost_most(rows: Sequence[Row]) -> Loss:
    """The workload that loses most under `hybrid` in a mix, at any capacity of the gap."""
    chosen = [row for row in rows if row["experiment"] == "mix" and row["policy"] == "hybrid"]
    chosen = [row for row in chosen if row["block_size"] == MAIN_BLOCK and row["capacity"] in GAP_SHARES]
    losses = (Loss(name, part["gain_over_lru"], row) for row in chosen for name, part in row["by_workload"].items())
    return min(losses, key=lambda loss: loss.gain)


def _loser(rows: Sequence[Row]) -> str:
    loss = lost_most(rows)
    return (
        f"The workload that loses most is {loss.workload} in `{loss.row['mix']}` at {loss.row['capacity']}: "
        f"{100 * loss.gain:+.1f} points, while the whole mix gains {100 * loss.row['gain_over_lru']:+.1f}."
    )


def _engine(rows: Sequence[Row]) -> str:
    """What is left under vLLM's scheduler, where requests overlap."""
    by_point: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_point.setdefault(row["point"], {})[row["policy"]] = row
    gains, changes = [], []
    for point, found in by_point.items():
        gain = found["hybrid"]["token_hit_rate"] - found["lru"]["token_hit_rate"]
        gains.append(f"{100 * gain:+.1f} ({point})")
        changes.append(100 * (found["hybrid"]["ttft_ms_p50"] / found["lru"]["ttft_ms_p50"] - 1))
    return (
        "Under vLLM's scheduler in virtual time, where requests overlap, the gains of `hybrid` over LRU are "
        f"{', '.join(gains)} points, and the median time to first token changes by {min(changes):+.1f} to "
        f"{max(changes):+.1f} %."
    )


def percent(row: Row, field: str) -> str:
    """A share and its interval in per cent."""
    low, high = row[f"{field}_ci95"]
    return f"{_one(row[field])} % ({_one(low)} to {_one(high)})"


def _one(share: float) -> str:
    """Per cent with one digit; what rounds to 0 has no sign."""
    return f"{round(100 * share, 1) + 0.0:.1f}"
