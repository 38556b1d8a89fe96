"""Weka's agentic coding traces (kv-cache-tester), which AgentX takes too: a conversation is one JSON object.

A file holds one or several, a folder many files. `requests` is a list of calls (`type` n, or s where it was streamed)
and of sub-agents (`type` subagent), which have calls of their own in `requests`. A call has `t` (s), `in` and `out`
(tokens), `hash_ids` (blocks of `block_size` tokens), `api_time` and `think_time` (s).

Kept: the calls of a conversation are a session, those of each sub-agent another, named by both, with `parent_session`.
The time before a call that does not go to the model - tools and people - is `think_time_ms`: `think_time` where the
call has it, else from the end of the call before (`t` + `api_time`) to its `t`. Sub-agents begin at their recorded
time, and a session's call after them at its own: a replay does not make a parent wait for its sub-agents. Hash ids are
local to a conversation unless `hash_id_scope` says `global`, so each conversation gets numbers of its own.

`t` of a sub-agent's calls counts from the sub-agent (kv-cache-tester) or from the conversation (AgentX). The published
files differ; here times that lie before the sub-agent's own `t` count from it. Checked against one file of
kv-cache-tester (no sub-agents in it); sub-agents and AgentX's files follow the documentation of AIPerf alone.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.fields import name_of, number, refuse, whole_number
from vllm_sim.trace.formats.json_stream import iter_elements
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import by_arrival, files_of
from vllm_sim.trace.record import Record, TraceError, parse_record

_CALLS = ("n", "s")
Timed = tuple[float, Record]


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the calls of all conversations by their times; each conversation begins at 0.

    A conversation that is not of the format is left out.
    """
    yield from by_arrival(_calls(path, options, report))


def _calls(path: Path, options: Options, report: Report) -> Iterator[Timed]:
    numbers: dict[Any, int] = {}
    for file in files_of(path, "*.json", "*.jsonl"):
        cut = [f"{file}: "]
        for place, row in enumerate(iter_elements(file, cut.append, options.on_bytes)):
            try:
                calls = list(_conversation(row, numbers))
            except ValueError as error:
                if report.strict:
                    raise TraceError(file, 0, f"conversation {place}: {error}") from None
                report.drop("conversation: not of the format", f"{file.name}, {place}: {error}")
                continue
            yield from calls
        if len(cut) > 1:
            report.drop("conversation: cut off", "".join(cut))


def _conversation(row: Any, numbers: dict[Any, int]) -> Iterator[Timed]:
    if not isinstance(row, dict):
        raise refuse("conversation", row, "an object with id, block_size and requests")
    name, size = name_of(row, "id"), whole_number(row, "block_size", 1)
    scope = None if row.get("hash_id_scope") == "global" else name
    yield from _session(row, str(name), None, 0, size, scope, numbers)


def _session(
    row: dict[str, Any],
    session: str,
    parent: str | None,
    start_s: float,
    size: int,
    scope: Any,
    numbers: dict[Any, int],
) -> Iterator[Timed]:
    """The calls of a conversation or a sub-agent, and of the sub-agents in it.

    Args:
        row: What has the calls in `requests`.
        session: Its name.
        parent: The session that started it.
        start_s: When it begins, from the conversation's start.
        size: Tokens a hash id stands for.
        scope: What hash ids are local to; None: all conversations share them.
        numbers: The number of each hash id, filled.
    """
    requests = row.get("requests")
    if not isinstance(requests, list):
        raise refuse("requests", requests, "a list")
    turn, end_s = 0, start_s
    for place, request in enumerate(requests):
        kind = request.get("type") if isinstance(request, dict) else request
        if kind == "subagent":
            child = f"{session}/{name_of(request, 'agent_id') if 'agent_id' in request else place}"
            yield from _session(request, child, session, start_s + number(request, "t"), size, scope, numbers)
            continue
        if kind not in _CALLS:
            raise refuse(f"requests[{place}].type", kind, "n, s, subagent")
        own = number(request, "t")
        time_s = own + start_s if parent is not None and own < start_s else own
        ids = request.get("hash_ids")
        if not isinstance(ids, list) or not all(type(one) is int for one in ids):
            raise refuse(f"requests[{place}].hash_ids", ids, "a list of whole numbers")
        values: dict[str, Any] = {
            "id": f"{session}-{turn}",
            "session_id": session,
            "turn": turn,
            "hash_ids": [numbers.setdefault((scope, one), len(numbers)) for one in ids],
            "hash_block_size": size,
            "input_length": whole_number(request, "in", 1),
            "output_length": whole_number(request, "out", 0),
        }
        if parent is not None:
            values |= {"parent_session": parent, "workload": row.get("subagent_type")}
        if turn:
            think_s = number(request, "think_time") if "think_time" in request else max(0, time_s - end_s)
            values["think_time_ms"] = round(think_s * 1000, 3)
        values |= {key: request[key] for key in ("model", "stop") if isinstance(request.get(key), str)}
        yield time_s * 1000, parse_record({key: value for key, value in values.items() if value is not None})
        turn, end_s = turn + 1, time_s + (number(request, "api_time") if "api_time" in request else 0)
