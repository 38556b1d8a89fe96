"""The tables of study two in docs/results.md, made from its rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from milestone3_code.study.study import CELLS, ENGINE, GAP_BASE, GAPS, MAIN_BLOCK
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick, read_rows

MAIN_SHARE = "10%"
GAP_SHARES = ("5%", "10%", "20%", "50%")
FLOOR = -0.005


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
    rows, gaps, engine = (read_rows(results / name) for name in (CELLS, GAPS, ENGINE))
    if any(row["quick"] for row in (*rows, *gaps, *engine)):
        raise ValueError("rows of a quick run are no results; run compare_policies.py without --quick")
    of_rows = (make(rows) for make in (_mixes, _worst, _random, _loser))
    return "\n\n".join((_by_capacity(gaps), _gaps(gaps), *of_rows, _engine(engine)))


def _by_capacity(rows: Sequence[Row]) -> str:
    """The share of the gap that each policy closes, all mixes, by capacity."""
    own = {"mix": "all", "block_size": MAIN_BLOCK}
    found = [row for row in pick(rows, "gap", **own) if row["capacity"] and row["policy"] not in GAP_BASE]
    capacities = list(dict.fromkeys(row["capacity"] for row in found))
    cells = {(row["policy"], row["capacity"]): row for row in found}
    lines = [
        f"| gap closed, all mixes, blocks of {MAIN_BLOCK}, by capacity | {' | '.join(capacities)} |",
        "|---" * (len(capacities) + 1) + "|",
    ]
    for policy in dict.fromkeys(row["policy"] for row in found):
        shares = " | ".join(percent(cells[policy, capacity], "gap_closed") for capacity in capacities)
        lines.append(f"| `{policy}` | {shares} |")
    lead = next(row for row in pick(rows, "gap", **own) if row["policy"] == "arc" and row["capacity"] is None)
    lines += [
        "",
        f"Means of {lead['seeds']} draws of each mix, 95 % intervals over the draws. Summed over capacities of "
        f"{GAP_SHARES[0]} to {GAP_SHARES[-1]}, `hybrid` is ahead of `arc` in {lead['hybrid_ahead_seeds']} of them, by "
        f"{percent(lead, 'hybrid_lead')} of the gap (sign test: p = {lead['hybrid_sign_p']:.3f}).",
    ]
    return "\n".join(lines)


def _gaps(rows: Sequence[Row]) -> str:
    found = [row for row in pick(rows, "gap", mix="all", capacity=None) if row["policy"] != "lru"]
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
    cells = distinct(rows)
    worst = min(cells, key=lambda row: row["gain_over_lru"])
    what = f"{worst['workload']} of `{worst['mix']}` alone" if worst["workload"] else f"mix `{worst['mix']}`"
    return (
        f"Of {len(cells):,} runs (each mix and each of its workloads alone; the largest request to all of the working "
        f"set; blocks of {min(row['block_size'] for row in cells)} to {max(row['block_size'] for row in cells)}; the "
        f"same blocks are one run) the worst for `hybrid` is {100 * worst['gain_over_lru']:+.2f} points of token hit "
        f"rate against LRU: {what}, {worst['capacity_blocks']:,} blocks of {worst['block_size']}."
    )


def distinct(rows: Sequence[Row]) -> list[Row]:
    """The rows of `guarantee`, of runs that are the same one: other tags, or capacities of equally many blocks."""
    found: dict[tuple[object, ...], Row] = {}
    for row in pick(rows, "guarantee", tags="with"):
        found.setdefault((row["mix"], row["workload"], row["block_size"], row["capacity_blocks"]), row)
    return list(found.values())


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
    """What is left under vLLM's scheduler, where requests overlap: a line a capacity and load, means of the mixes."""
    policies = [policy for policy in dict.fromkeys(row["policy"] for row in rows) if policy != "lru"]
    cells = list(dict.fromkeys((row["load"], row["capacity"]) for row in rows))
    lines = [
        "| under vLLM's scheduler: token hit rate over LRU's in points, mean of the mixes | load | "
        + " | ".join(f"`{policy}`" for policy in policies)
        + " |",
        "|---" * (len(policies) + 2) + "|",
    ]
    for load, capacity in cells:
        own = [row for row in rows if (row["load"], row["capacity"]) == (load, capacity)]
        gains = [[row["gain_over_lru"] for row in own if row["policy"] == policy] for policy in policies]
        shown = " | ".join(f"{100 * sum(found) / len(found):+.1f}" for found in gains)
        lines.append(f"| {capacity} | {load:g} | {shown} |")
    first, later = rows[0], [row["ttft_over_lru_ms"] for row in rows if row["policy"] == "hybrid"]
    device = first["device"].upper()
    return "\n".join(lines) + (
        f"\n\nSessions come at `load` times the rates of a mix for {first['seconds']:g} s on one {device} (roofline); "
        f"measured from {first['warmup_s']:g} s on. Under `hybrid` the first token comes {min(later):+.1f} to "
        f"{max(later):+.1f} ms later than under LRU, the mean of a cell's requests."
    )


def percent(row: Row, field: str) -> str:
    """A share and its interval in per cent."""
    low, high = row[f"{field}_ci95"]
    return f"{_one(row[field])} % ({_one(low)} to {_one(high)})"


def _one(share: float) -> str:
    """Per cent with one digit; what rounds to 0 has no sign."""
    return f"{round(100 * share, 1) + 0.0:.1f}"
