"""The README's tables of study two, made from its rows."""

from collections.abc import Sequence
from pathlib import Path

from vllm_sim.replay.rows import Row
from vllm_sim.study.mixed.study import MAIN_BLOCK
from vllm_sim.study.results import read_rows

MAIN_SHARE = "10%"


def section(results: Path) -> str:
    """What each policy closes of the gap, each mix at MAIN_SHARE, and the worst cell, in Markdown.

    Raises:
        ValueError: a row comes from a quick run, or one that is needed is not there.
    """
    rows = read_rows(results / "mixed.jsonl")
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_policies.py without --quick")
    return "\n\n".join((_gaps(rows), _mixes(rows), _worst(rows)))


def _gaps(rows: Sequence[Row]) -> str:
    found = [row for row in rows if row["experiment"] == "gap" and row["mix"] == "all" and row["policy"] != "lru"]
    sizes = sorted({row["block_size"] for row in found})
    by_policy = {(row["policy"], row["block_size"]): row for row in found}
    main = [row for row in found if row["block_size"] == MAIN_BLOCK and row["policy"] != "opt"]
    if not main:
        raise ValueError("no row of gap, all mixes; run compare_policies.py")
    lines = [f"| gap closed | {' | '.join(f'blocks of {size}' for size in sizes)} |", "|---" * (len(sizes) + 1) + "|"]
    for policy in [row["policy"] for row in sorted(main, key=lambda row: -row["gap_closed"])]:
        cells = [by_policy.get((policy, size)) for size in sizes]
        lines.append(f"| `{policy}` | {' | '.join(_percent(row, 'gap_closed') if row else '' for row in cells)} |")
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
        rates = [f"{loss[name]:.3f}" for name in ("lru_hit_rate", "hybrid_hit_rate", "opt_hit_rate")]
        rates.append(f"{loss['unlimited_hit_rate']:.3f}")
        parts = ", ".join(f"{name} {100 * part['gain_over_lru']:+.1f}" for name, part in hybrid["by_workload"].items())
        lines.append(f"| {loss['mix']} | {' | '.join(rates)} | {parts} |")
    return "\n".join(lines)


def _worst(rows: Sequence[Row]) -> str:
    cells = [row for row in rows if row["experiment"] == "guarantee"]
    worst = min(cells, key=lambda row: row["gain_over_lru"])
    what = f"{worst['workload']} of `{worst['mix']}` alone" if worst["workload"] else f"mix `{worst['mix']}`"
    return (
        f"Of {len(cells):,} cells (each mix and each of its workloads alone; the largest request to all of the working "
        f"set; blocks of {min(row['block_size'] for row in cells)} to {max(row['block_size'] for row in cells)}; with "
        f"tags, without, shuffled) the worst for `hybrid` is {100 * worst['gain_over_lru']:+.2f} points of token hit "
        f"rate against LRU: {what}, blocks of {worst['block_size']}, {worst['capacity_blocks']:,} of them."
    )


def _percent(row: Row, field: str) -> str:
    low, high = row[f"{field}_95"]
    return f"{100 * row[field]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
