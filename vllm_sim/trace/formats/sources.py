"""What importers of several files have in common: the files of a folder, times of day, and the order of arrival.

Requests of several sessions are sorted by their time, counted from the first of all; where two have the same, the
order of the files decides. That needs all of them in memory.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import structs

from vllm_sim.trace.formats.fields import refuse
from vllm_sim.trace.record import MAX_MS, Record, TraceError

PACKED = ("", ".gz", ".zst")


def files_of(path: Path, *patterns: str) -> list[Path]:
    """A file, or the files of a folder and of those in it that fit a pattern, packed or not, by their names.

    Raises:
        TraceError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    found = sorted({file for pattern in patterns for end in PACKED for file in path.rglob(pattern + end)})
    if not found:
        raise TraceError(path, 0, f"no file in this folder is one of the format; allowed: {', '.join(patterns)}")
    return found


def time_ms(row: dict[str, Any], name: str) -> float:
    """A time of day as ISO 8601 has it (UTC where it names no zone), in milliseconds since 1970.

    Raises:
        ValueError: it is none.
    """
    value = row.get(name)
    try:
        time = datetime.fromisoformat(value)  # type: ignore[arg-type]
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000
    except (TypeError, ValueError, OverflowError):
        raise refuse(name, value, "a time such as 2026-06-01T05:40:20.151Z") from None


def by_arrival(records: Iterable[tuple[float, Record]]) -> Iterator[Record]:
    """Yields the records by their times (milliseconds, from anywhere), which are counted from the first."""
    ordered = sorted(records, key=lambda pair: pair[0])
    for time, record in ordered:
        yield structs.replace(record, timestamp=min(round(time - ordered[0][0], 3), MAX_MS))
