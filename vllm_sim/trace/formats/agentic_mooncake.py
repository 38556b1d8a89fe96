"""Dynamo's agentic Mooncake rows: Mooncake's, with sessions and what a request waits for.

Fields: `request_id`, `session_id`, `input_length` (or `input_tokens`), `output_length` (`output_tokens`), `hash_ids`,
`timestamp` (ms; `created_time`), `delay` (ms; `delay_ms`), `wait_for` (ids of requests whose answers come first),
`tool_wait_ms`. A first line with `schema` and `block_size` may say how many tokens an id stands for; else it is 512.

A request that waits for its session's previous one gets `think_time_ms` = delay + tool_wait_ms. Other requests that it
waits for stay in `wait_for`, which a replay does not heed: such a request arrives at its timestamp, or, without one, at
the latest arrival of what it waits for plus that delay, as if answers took no time. Other keys are kept. Not checked
against a real file: field names are those of the documentation of Dynamo's data generator (AgenticMooncakeRow, 1.3).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.fields import name_of, number, refuse, whole_number, without
from vllm_sim.trace.formats.lines import convert_lines
from vllm_sim.trace.formats.mooncake import BLOCK_SIZE_TOKENS
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, parse_record

_ALIASES = {
    "input_tokens": "input_length",
    "output_tokens": "output_length",
    "created_time": "timestamp",
    "delay_ms": "delay",
}


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields a record a line, in the file's order; bad lines as `convert_lines` has it."""
    state = _State()
    return convert_lines(path, options, report, state.records)


class _State:
    """What later lines need of earlier ones."""

    def __init__(self) -> None:
        self.block_size = BLOCK_SIZE_TOKENS
        self.arrivals: dict[str | int, float] = {}
        self.last: dict[str | int, str | int] = {}
        """The last request of each session."""

    def records(self, row: dict[str, Any], line: int) -> list[Record]:
        """The record of a line; none of the header."""
        if "schema" in row and "hash_ids" not in row:
            if "block_size" in row:
                self.block_size = whole_number(row, "block_size", 1)
            return []
        row = {_ALIASES.get(key, key): value for key, value in row.items() if value is not None}
        name = name_of(row, "request_id")
        if name in self.arrivals:
            raise refuse("request_id", name, "each once")
        session = name_of(row, "session_id") if "session_id" in row else None
        waited = row.get("wait_for", [])
        if not isinstance(waited, list) or not all(one in self.arrivals for one in waited):
            raise refuse("wait_for", waited, "a list of request_ids of earlier lines")
        previous = self.last.get(session) if session is not None else None
        delay = sum(number(row, key) for key in ("delay", "tool_wait_ms") if key in row)
        follows = previous is not None and (previous in waited or not ({"wait_for", "timestamp"} & row.keys()))
        before = [self.arrivals[one] for one in (*waited, *([previous] if follows else []))]
        if "timestamp" not in row and not before:
            raise ValueError("timestamp is missing; allowed: milliseconds, or wait_for")
        arrival = number(row, "timestamp") if "timestamp" in row else max(before) + delay
        own: dict[str, Any] = {"hash_block_size": self.block_size, "id": name, "timestamp": round(arrival, 3)}
        others = [one for one in waited if one != previous]
        if follows:
            own["think_time_ms"] = round(delay, 3)
        if others:
            own["wait_for"] = others
        kept = without(row, "request_id", "delay", "tool_wait_ms", "wait_for", "timestamp", "branches")
        record = parse_record({**kept, **own})
        self.arrivals[name] = arrival
        if session is not None:
            self.last[session] = name
        return [record]
