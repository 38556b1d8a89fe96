"""Statistics of a trace as tables for a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table


def show_stats(stats: dict[str, Any], console: Console | None = None) -> None:
    """Prints what trace_stats found."""
    console = console or Console()
    console.print(_requests(stats))
    console.print(_blocks(stats))
    if stats["distinct_hash_ids"] is not None:
        sizes = " and ".join(map(str, stats["hash_block_sizes"]))
        console.print(f"{stats['distinct_hash_ids']:,} distinct hash ids of {sizes} tokens; generated blocks are fresh")


def _requests(stats: dict[str, Any]) -> Table:
    table = Table(title=f"{stats['trace']}: requests, lengths in tokens")
    table.add_column("workload")
    titles = ("requests", "sessions", "prompt tokens", "output tokens", "prompt p50/p90/p99", "output p50/p90/p99")
    for title in (*titles, "requests a session p50/p90/p99"):
        table.add_column(title, justify="right")
    named = stats["workloads"].items()
    for name, row in [*(named if len(stats["workloads"]) > 1 else ()), ("all", stats)]:
        counts = (f"{row[key]:,}" for key in ("requests", "sessions", "prompt_tokens", "output_tokens"))
        lengths = (_quantiles(row[key]) for key in ("prompt_length", "output_length", "requests_per_session"))
        table.add_row(name, *counts, *lengths)
    return table


def _blocks(stats: dict[str, Any]) -> Table:
    table = Table(title="full blocks of prompts that an earlier request had (a cache without bounds)")
    tags = list(stats["workloads"]) if len(stats["workloads"]) > 1 else []
    titles = ("block size", "prompt blocks", "seen before", "share", *tags, "working set")
    for title in (*titles, "reuse gap p50/p90/p99, requests", "in seconds"):
        table.add_column(title, justify="right")
    for row in stats["blocks"]:
        size = str(row["block_size"])
        table.add_row(
            size,
            f"{row['prompt_blocks']:,}",
            f"{row['seen_before_blocks']:,}",
            _percent(row["seen_before_share"]),
            *(_percent(stats["workloads"][tag]["seen_before_by_block_size"][size]) for tag in tags),
            f"{row['working_set_blocks']:,}",
            _quantiles(row["reuse_gap_requests"]),
            _quantiles(row["reuse_gap_ms"], 1000),
        )
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _quantiles(values: dict[str, float] | None, divisor: int = 1) -> str:
    if values is None:
        return "-"
    return " / ".join(f"{values[name] / divisor:,.{1 if divisor > 1 else 0}f}" for name in ("p50", "p90", "p99"))
