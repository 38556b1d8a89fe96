"""Session files of Claude Code (~/.claude/projects): a file, or a folder with all that are in it.

A line is an event: `type` user or assistant, `uuid`, `parentUuid`, `timestamp`, `sessionId`, `message`; others are
passed over. The lines of one answer have the same `message.id`; their blocks are put together, and `usage` is that of
the last. The chat before an answer is what the `parentUuid`s lead to. Thinking is no part of the chat, as its tokens
are not sent again. A sub-agent (`isSidechain`, `agentId`) is a session of its own, with `parent_session`.

No description of the format is published by its maker. This follows what projects that read it have written down
(versions 1.0 to 2.1 of Claude Code); it was not checked against a real file. What calls.py says of texts and lengths
holds here.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vllm_sim.trace.files import decode_text, iter_raw_lines, parse_json
from vllm_sim.trace.formats.calls import AgentCall, records_of
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import files_of, time_ms
from vllm_sim.trace.record import Record, TraceError

_COUNTED = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


@dataclass(slots=True)
class _Event:
    """A line, or all lines of an answer."""

    parent: str | None
    ms: float
    row: dict[str, Any]
    blocks: list[dict[str, Any]] = field(default_factory=list)


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the calls by their times; a line that is not of the format is left out."""
    yield from records_of(_calls(path, options, report), options, report)


def _calls(path: Path, options: Options, report: Report) -> Iterator[AgentCall]:
    for file in files_of(path, "*.jsonl"):
        events: dict[str, _Event] = {}
        answers: dict[str, tuple[str, _Event]] = {}
        for number, line in iter_raw_lines(file, options.on_bytes):
            try:
                _read(parse_json(decode_text(line)), events, answers)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if report.strict:
                    raise TraceError(file, number, str(error)) from None
                report.drop("line: not of the format", f"{file.name}, line {number}: {error}")
        for name, answer in answers.values():
            yield _call(name, answer, events)


def _read(row: Any, events: dict[str, _Event], answers: dict[str, tuple[str, _Event]]) -> None:
    """Keeps a line that says something of the chat."""
    if not isinstance(row, dict):
        raise ValueError("the line is no JSON object")
    if row.get("type") not in ("user", "assistant"):
        if isinstance(row.get("uuid"), str):  # its parent is what the next line's chat goes on with
            events[row["uuid"]] = _Event(row.get("parentUuid"), 0, row)
        return
    content = row["message"]["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
    event = _Event(row.get("parentUuid"), time_ms(row, "timestamp"), row, blocks)
    if row["type"] == "assistant":
        name = row["message"].get("id") or row["uuid"]
        if name in answers:
            first = answers[name][1]
            first.blocks += blocks
            first.ms, first.row["message"]["usage"] = event.ms, row["message"].get("usage")
            events[row["uuid"]] = first
            return
        answers[name] = name, event
    events[row["uuid"]] = event


def _call(name: str, answer: _Event, events: dict[str, _Event]) -> AgentCall:
    row = answer.row
    chain: list[_Event] = []
    place, seen = answer.parent, {id(answer)}
    while place in events:
        event = events[place]
        if id(event) not in seen:
            chain.append(event)
            seen.add(id(event))
        elif place == event.row.get("uuid"):
            break  # a chat that goes round
        place = event.parent
    chain.reverse()
    usage = row["message"].get("usage") or {}
    counted = [usage.get(key) or 0 for key in _COUNTED]
    session = row.get("sessionId") or "session"
    more: dict[str, Any] = {"workload": "agent"}
    if row.get("isSidechain"):
        root = row.get("agentId") or (chain[0].row.get("uuid") if chain else name)
        more |= {"parent_session": session, "workload": "sub-agent"}
        session = f"{session}/{root}"
    sent = max((event.ms for event in chain), default=answer.ms)
    return AgentCall(
        id=name,
        session=session,
        sent_ms=sent,
        answered_ms=answer.ms,
        messages=[message for event in chain if event.ms for message in _messages(event)],
        answer=next(iter(_messages(answer)), {"role": "assistant", "content": ""}),
        input_tokens=sum(counted) or None,
        cached_tokens=counted[2],
        output_tokens=usage.get("output_tokens"),
        model=row["message"].get("model"),
        more=more,
    )


def _messages(event: _Event) -> Iterator[dict[str, Any]]:
    """The messages of a chat that an event stands for: results of tools are each one of their own."""
    texts = [block["text"] for block in event.blocks if block.get("type") == "text"]
    if event.row["type"] == "assistant":
        calls = [
            {
                "id": block.get("id"),
                "type": "function",
                "function": {"name": block["name"], "arguments": block["input"]},
            }
            for block in event.blocks
            if block.get("type") == "tool_use"
        ]
        yield {"role": "assistant", "content": "\n".join(texts)} | ({"tool_calls": calls} if calls else {})
        return
    for block in event.blocks:
        if block.get("type") == "tool_result":
            content = block.get("content")
            parts = content if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]
            text = "\n".join(part["text"] for part in parts if part.get("type") == "text")
            yield {"role": "tool", "content": text, "tool_call_id": str(block.get("tool_use_id"))}
    if texts:
        yield {"role": "user", "content": "\n".join(texts)}
