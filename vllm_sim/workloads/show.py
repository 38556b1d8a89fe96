"""What a build made of each source, as a table for a terminal."""

from rich.console import Console
from rich.table import Table

from vllm_sim.workloads.build import Built


def show_built(built: list[Built], console: Console | None = None) -> None:
    """Prints a row a source; sessions count batches and single requests too."""
    table = Table("source")
    for title in ("sessions", "requests", "left out (end_s)", "first, s", "last, s"):
        table.add_column(title, justify="right")
    for part in built:
        counts = (f"{count:,}" for count in (part.sessions, part.requests, part.left_out))
        table.add_row(part.name, *counts, *(_seconds(time) for time in (part.first_ms, part.last_ms)))
    (console or Console()).print(table)


def _seconds(time_ms: float | None) -> str:
    return "-" if time_ms is None else f"{time_ms / 1000:,.1f}"
