"""What a build made of each source, as a table for a terminal."""

from typing import TYPE_CHECKING

from vllm_sim.terminal import show_table
from vllm_sim.workloads.build import Built

if TYPE_CHECKING:
    from rich.console import Console


def show_built(built: list[Built], console: "Console | None" = None) -> None:
    """Prints a row a source; sessions count batches and single requests too."""
    headers = ("source", "sessions", "requests", "left out (end_s)", "first, s", "last, s")
    rows = [
        (
            part.name,
            *(f"{count:,}" for count in (part.sessions, part.requests, part.left_out)),
            *(_seconds(time_ms) for time_ms in (part.first_ms, part.last_ms)),
        )
        for part in built
    ]
    show_table("requests by source", headers, rows, console=console)


def _seconds(time_ms: float | None) -> str:
    return "-" if time_ms is None else f"{time_ms / 1000:,.1f}"
