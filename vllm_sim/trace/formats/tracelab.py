"""TraceLab's recordings of coding agents: lengths and times of rounds, no texts.

Two files are read. Rounds, one JSON object a line: `session_id`, `round_index`, `input_tokens_total`, `prefix_tokens`
(of these, those that the provider had in its cache), `output_tokens`, and `timing_events`, the last of which that
brings input (user_message, tool_result) is the arrival. Sessions for its runner, a CSV: `session_id`, `arrival_time`
(ms, of the session), `round_idx`, `prefix_len` (tokens of earlier rounds), `input_len` (new ones), `output_len`,
`tool_wait_after_ms`.

A prompt becomes hash ids (lengths.py): it shares its prefix with the session's round before. What a first round shares
with other sessions is in neither file, so it shares nothing. `think_time_ms` is what lies between the last output of a
round and the arrival of the next one, or `tool_wait_after_ms`. Checked against one file of each kind.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.files import iter_lines
from vllm_sim.trace.formats.fields import name_of, number, refuse, whole_number
from vllm_sim.trace.formats.lengths import Contexts
from vllm_sim.trace.formats.lines import convert_lines
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import by_arrival, time_ms
from vllm_sim.trace.record import Record, TraceError, parse_record

COLUMNS = ("session_id", "arrival_time", "round_idx", "prefix_len", "input_len", "output_len", "tool_wait_after_ms")
_INPUTS = ("user_message", "tool_result")


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the rounds by their times; a bad line is left out.

    Raises:
        TraceError: a row of a CSV is not of the format.
    """
    if path.name.removesuffix(".gz").removesuffix(".zst").endswith(".csv"):
        yield from _sessions(path)
        return
    contexts, ends = Contexts(), dict[Any, float]()
    timed: list[tuple[float, Record]] = []

    def rounds(row: dict[str, Any], line: int) -> list[Record]:
        arrival, record = _round(row, contexts, ends)
        timed.append((arrival, record))
        return []

    for _ in convert_lines(path, options, report, rounds):
        pass
    yield from by_arrival(timed)


def _round(row: dict[str, Any], contexts: Contexts, ends: dict[Any, float]) -> tuple[float, Record]:
    session, turn = name_of(row, "session_id"), whole_number(row, "round_index", 0)
    events = row.get("timing_events")
    if not isinstance(events, list) or not events or not all(isinstance(event, dict) for event in events):
        raise refuse("timing_events", events, "a list of events with event_type and timestamp")
    times = [(time_ms(event, "timestamp"), event.get("event_type") in _INPUTS) for event in events]
    arrival = max((time for time, is_input in times if is_input), default=times[0][0])
    tokens = whole_number(row, "input_tokens_total", 1)
    values: dict[str, Any] = {
        "id": row.get("round_id") or f"{session}-{turn}",
        "session_id": session,
        "turn": turn,
        "output_length": whole_number(row, "output_tokens", 0),
        **contexts.prompt(session, tokens, whole_number(row, "prefix_tokens", 0)),
    }
    if session in ends:
        values["think_time_ms"] = round(max(0.0, arrival - ends[session]), 3)
    ends[session] = max(time for time, _ in times)
    kept = {"workload": "provider", "tenant": "project", "model": "model"}
    values |= {name: row[key] for name, key in kept.items() if isinstance(row.get(key), str)}
    return arrival, parse_record(values)


def _sessions(path: Path) -> Iterator[Record]:
    contexts, waits = Contexts(), dict[str, float]()
    timed = []
    rows = csv.DictReader(text for _, text in iter_lines(path))
    for row in rows:
        try:
            missing = [name for name in COLUMNS if row.get(name) is None]
            if missing:
                raise ValueError(f"no column {', '.join(missing)}; allowed: {', '.join(COLUMNS)}")
            values = {name: _number(row, name) for name in COLUMNS[1:]}
            session, turn = row["session_id"], whole_number(values, "round_idx", 0)
            prefix, new = (whole_number(values, name, 0) for name in ("prefix_len", "input_len"))
            record = {
                "id": f"{session}-{turn}",
                "session_id": session,
                "turn": turn,
                "output_length": whole_number(values, "output_len", 0),
                **contexts.prompt(session, prefix + new, prefix),
            }
            if turn:
                record["think_time_ms"] = waits.get(session, 0)
            waits[session] = number(values, "tool_wait_after_ms")
            timed.append((number(values, "arrival_time"), parse_record(record)))
        except ValueError as error:
            raise TraceError(path, rows.line_num, str(error)) from None
    yield from by_arrival(timed)


def _number(row: dict[str, str], name: str) -> float:
    try:
        return float(row[name])
    except ValueError:
        raise refuse(name, row[name], "a number") from None
