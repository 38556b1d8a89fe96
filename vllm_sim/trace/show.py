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
    """A column a workload, and one for all of them."""
    named = stats["workloads"] if len(stats["workloads"]) > 1 else {}
    columns = [*named.values(), stats]
    table = Table(title=f"{stats['trace']}: requests, lengths in tokens")
    table.add_column("")
    for name in (*named, "all"):
        table.add_column(name, justify="right")
    for key in ("requests", "sessions", "prompt_tokens", "output_tokens"):
        table.add_row(key.replace("_", " "), *(f"{column[key]:,}" for column in columns))
    for key in ("prompt_length", "output_length", "requests_per_session"):
        table.add_row(f"{key.replace('_', ' ')}, p50 p90 p99", *(_quantiles(column[key]) for column in columns))
    return table


def _blocks(stats: dict[str, Any]) -> Table:
    tags = list(stats["workloads"]) if len(stats["workloads"]) > 1 else []
    table = Table(title="share of full prompt blocks that an earlier request had (a cache without bounds)")
    for title in ("block", "prompt blocks", "share", *tags, "working set", "gap, requests", "gap, s"):
        table.add_column(title, justify="right")
    for row in stats["blocks"]:
        size = str(row["block_size"])
        table.add_row(
            size,
            f"{row['prompt_blocks']:,}",
            _percent(row["seen_before_share"]),
            *(_percent(stats["workloads"][tag]["seen_before_by_block_size"][size]) for tag in tags),
            f"{row['working_set_blocks']:,}",
            _quantiles(row["reuse_gap_requests"]),
            _quantiles(row["reuse_gap_ms"], 1000),
        )
    table.caption = "block in tokens; working set in blocks, generated ones included; gap between two uses, p50 p90 p99"
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _quantiles(values: dict[str, float] | None, divisor: int = 1) -> str:
    if values is None:
        return "-"
    return " ".join(f"{values[name] / divisor:,.0f}" for name in ("p50", "p90", "p99"))
