"""Qwen-Bailian traces: `chat_id`, `parent_chat_id` (-1: none), `timestamp` (s), `input_length`, `output_length`,
`type`, `turn`, `hash_ids` (16-token blocks). Read: alibaba-edu/qwen-bailian-usagetraces-anon.

A session is a root and all that descend from it; it is named by the root's chat_id, and a request's turn is its depth
(two answers to the same request have the same turn). `type` becomes the workload; other keys are kept, the recorded
turn as `recorded_turn`. A child is put after its parent where the file has it in front, and its time is then not
before the parent's. A request whose parent is not in the file begins a session.

The file is read twice. Held in memory: about 300 bytes a request, and the children that wait for their parents.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import structs

from vllm_sim.trace.files import iter_objects
from vllm_sim.trace.formats.fields import name_of, number, refuse, whole_number, without
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, TraceError, parse_record

BLOCK_SIZE_TOKENS = 16
Name = str | int


class _Place(NamedTuple):
    """Where a request stands in its session."""

    session: Name
    turn: int
    timestamp: float


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the requests, in the file's order but for children in front of their parents.

    Raises:
        TraceError: a line that breaks the format, a chat_id that comes twice, or requests that descend from each other.
    """
    lines = _lines_by_chat(path)
    places: dict[Name, _Place] = {}
    waiting: dict[Name, list[tuple[Name, Record]]] = defaultdict(list)
    for line, row in iter_objects(path, options.on_bytes):
        try:
            chat, parent, record = _record(row)
        except ValueError as error:
            raise TraceError(path, line, str(error)) from None
        if parent is not None and parent not in lines:
            report.repair("a request whose parent is not in the file begins a session", f"line {line}")
            parent = None
        if parent is not None and parent not in places:
            report.repair("a request was put after its parent", f"line {line}")
            waiting[parent].append((chat, record))
            continue
        yield from _placed(chat, record, places.get(parent) if parent is not None else None, places, waiting)
    if waiting:
        line = min(lines[chat] for children in waiting.values() for chat, _ in children)
        raise TraceError(path, line, "parent_chat_id: the request descends from itself; allowed: an earlier request")


def _lines_by_chat(path: Path) -> dict[Name, int]:
    lines: dict[Name, int] = {}
    for line, row in iter_objects(path):
        try:
            chat = name_of(row, "chat_id")
        except ValueError as error:
            raise TraceError(path, line, str(error)) from None
        if chat in lines:
            raise TraceError(path, line, f"chat_id {chat!r} is that of line {lines[chat]} too; allowed: each once")
        lines[chat] = line
    return lines


def _record(row: dict[str, Any]) -> tuple[Name, Name | None, Record]:
    """(chat, parent or None, the record without its place in a session)."""
    chat = name_of(row, "chat_id")
    parent = name_of(row, "parent_chat_id") if row.get("parent_chat_id") is not None else -1
    kind = row.get("type")
    if kind is not None and not isinstance(kind, str):
        raise refuse("type", kind, "a text")
    known = ("chat_id", "timestamp", "input_length", "output_length", "type", "turn", "hash_ids")
    values = without(row, *known) | {
        "id": chat,
        "timestamp": round(number(row, "timestamp") * 1000, 6),
        "input_length": whole_number(row, "input_length", 1),
        "output_length": whole_number(row, "output_length", 0),
        "hash_ids": row.get("hash_ids"),
        "hash_block_size": BLOCK_SIZE_TOKENS,
        "workload": kind,
        "recorded_turn": row.get("turn"),
    }
    record = parse_record({key: value for key, value in values.items() if value is not None})
    return chat, None if parent == -1 else parent, record


def _placed(
    chat: Name,
    record: Record,
    parent: _Place | None,
    places: dict[Name, _Place],
    waiting: dict[Name, list[tuple[Name, Record]]],
) -> Iterator[Record]:
    """Yields a request in its place, then the descendants that waited for it."""
    ready = [(chat, record, parent)]
    while ready:
        chat, record, parent = ready.pop(0)
        assert record.timestamp is not None
        if parent is None:
            place = _Place(chat, 0, record.timestamp)
        else:
            place = _Place(parent.session, parent.turn + 1, max(record.timestamp, parent.timestamp))
        places[chat] = place
        yield structs.replace(record, session_id=place.session, turn=place.turn, timestamp=place.timestamp)
        ready += [(child, waited, place) for child, waited in waiting.pop(chat, [])]
