"""Statistics of a trace as tables for a terminal."""

from typing import TYPE_CHECKING, Any

from vllm_sim.terminal import show_table

if TYPE_CHECKING:
    from rich.console import Console

_CAPTION = "block in tokens; working set in blocks, generated ones included; gap between two uses, p50 p90 p99"


def show_stats(stats: dict[str, Any], console: "Console | None" = None) -> None:
    """Prints what trace_stats found."""
    _show_requests(stats, console)
    _show_blocks(stats, console)
    if stats["distinct_hash_ids"] is not None:
        sizes = " and ".join(map(str, stats["hash_block_sizes"]))
        print(f"{stats['distinct_hash_ids']:,} distinct hash ids of {sizes} tokens; generated blocks are fresh")


def _show_requests(stats: dict[str, Any], console: "Console | None") -> None:
    """A column a workload, and one for all of them."""
    named = stats["workloads"] if len(stats["workloads"]) > 1 else {}
    columns = [*named.values(), stats]
    rows = [
        (key.replace("_", " "), *(f"{column[key]:,}" for column in columns))
        for key in ("requests", "sessions", "prompt_tokens", "output_tokens")
    ]
    rows += [
        (f"{key.replace('_', ' ')}, p50 p90 p99", *(_quantiles(column[key]) for column in columns))
        for key in ("prompt_length", "output_length", "requests_per_session")
    ]
    show_table(f"{stats['trace']}: requests, lengths in tokens", ("", *named, "all"), rows, console=console)


def _show_blocks(stats: dict[str, Any], console: "Console | None") -> None:
    tags = list(stats["workloads"]) if len(stats["workloads"]) > 1 else []
    headers = ("block", "prompt blocks", "share", *tags, "working set", "gap, requests", "gap, s")
    rows = [
        (
            row["block_size"],
            f"{row['prompt_blocks']:,}",
            _percent(row["seen_before_share"]),
            *(_percent(stats["workloads"][tag]["seen_before_by_block_size"][str(row["block_size"])]) for tag in tags),
            f"{row['working_set_blocks']:,}",
            _quantiles(row["reuse_gap_requests"]),
            _quantiles(row["reuse_gap_ms"], 1000),
        )
        for row in stats["blocks"]
    ]
    title = "share of full prompt blocks that an earlier request had (a cache without bounds)"
    show_table(title, headers, rows, _CAPTION, console)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _quantiles(values: dict[str, float] | None, divisor: int = 1) -> str:
    if values is None:
        return "-"
    return " ".join(f"{values[name] / divisor:,.0f}" for name in ("p50", "p90", "p99"))
