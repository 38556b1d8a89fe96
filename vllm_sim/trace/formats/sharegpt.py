"""ShareGPT dumps: entries of `id` and `conversations` (`from`, `value`), as one JSON array or one entry a line.

A long conversation is split into entries `ID_0`, `ID_N`, ... In the cleaned dump (V3) N is the number of messages
before the part, and a part begins with the last message of the one before it, or right after it; in other dumps N
counts the parts. Both are joined again, if the parts follow each other in the file.

Held in memory: one conversation, and the ids of those that were read (to find one that comes twice).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.conversations import Conversation, Message, requests_of
from vllm_sim.trace.formats.json_stream import iter_elements
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, check_encodable

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "system": "system",
}
_PART = re.compile(r"(.+)_(\d+)", re.DOTALL)


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the requests of every conversation of a dump."""
    for conversation in iter_conversations(path, options, report):
        yield from requests_of(conversation, options.turns)


def iter_conversations(path: Path, options: Options, report: Report) -> Iterator[Conversation]:
    """Yields repaired conversations: perhaps a system message, then user and assistant in turn, no text empty.

    Raises:
        TraceError: the file cannot be read or is broken elsewhere than at its end.
    """
    for name, messages in _joined(path, options, report):
        repaired = _repair(name, messages, report)
        if repaired:
            yield Conversation(name, repaired)


def _entries(path: Path, options: Options, report: Report) -> Iterator[tuple[str, int, list[Any]]]:
    """Yields (conversation, number of the part, messages) of every entry that has them."""

    def on_cut(where: str) -> None:
        report.drop("the file is cut off within an entry", where)

    for number, entry in enumerate(iter_elements(path, on_cut, options.on_bytes), 1):
        if not isinstance(entry, dict):
            report.drop("entry: not an object", f"entry {number}")
            continue
        messages = entry.get("conversations", entry.get("conversation"))
        if not isinstance(messages, list):
            report.drop("entry: no list of conversations", f"entry {number}")
            continue
        name = str(entry.get("id", f"entry-{number}"))
        part = _PART.fullmatch(name)
        yield (part[1], int(part[2]), messages) if part else (name, 0, messages)


def _joined(path: Path, options: Options, report: Report) -> Iterator[tuple[str, list[Any]]]:
    """Yields whole conversations."""
    seen: set[str] = set()
    name: str | None = None
    held: list[Any] = []
    previous = 0
    is_open = False
    for entry_name, part, messages in _entries(path, options, report):
        if entry_name != name:
            if name is not None and held:
                yield name, held
            name, held, previous, is_open = entry_name, [], 0, True
            if part:
                report.drop("part: the conversation's beginning is missing", f"{name}_{part}")
                is_open = False
            elif name in seen:
                report.drop("conversation: its id was there before", name)
                is_open = False
            seen.add(name)
            if not is_open:
                continue
        elif not is_open:
            report.drop("part: it follows one that was dropped", f"{name}_{part}")
            continue
        begin = _first_new(held, messages, part, previous)
        if begin is None:
            report.drop("part: messages before it are missing, or it was there before", f"{name}_{part}")
            is_open = False
            continue
        if held and messages:
            report.repair("a part was joined to the one before it", f"{name}_{part}")
        held += messages[begin:]
        previous = part
    if name is not None and held:
        yield name, held


def _first_new(held: list[Any], messages: list[Any], part: int, previous: int) -> int | None:
    """The index of a part's first message that is not held yet; None if the part does not fit after what is held."""
    if not held or not messages:
        return 0
    if part == previous:
        return None
    if messages[0] == held[-1] and part in (len(held) - 1, previous + 1):
        return 1
    return 0 if part in (len(held), previous + 1) else None


def _repair(name: str, messages: list[Any], report: Report) -> list[Message]:
    """User and assistant in turn, the last one an assistant; empty if nothing is left."""
    result: list[Message] = []
    for place, message in enumerate(messages):
        where = f"{name} message {place}"
        role, text = _role_and_text(message, report, where)
        if role is None:
            continue
        last = result[-1]["role"] if result else None
        if role == "system" and last is not None:
            report.drop("turn: system, not at the beginning", where)
        elif role == "assistant" and last in (None, "system"):
            report.drop("turn: an answer without a question", where)
        elif role == "assistant" and last == "assistant":
            # The question in between is lost, so the history of all that follows is.
            report.drop("turns: after two answers in a row", where, len(messages) - place)
            break
        elif role == last == "user":
            report.repair("two questions in a row were joined by a blank line", where)
            result[-1] = {"role": "user", "content": f"{result[-1]['content']}\n\n{text}"}
        else:
            result.append({"role": role, "content": text})
    while result and result[-1]["role"] != "assistant":
        report.drop("turn: not answered", f"{name}, the last")
        result.pop()
    if not result:
        report.drop("conversation: without an exchange", name)
    return result


def _role_and_text(message: Any, report: Report, where: str) -> tuple[str | None, str]:
    if not isinstance(message, dict) or not isinstance(message.get("value"), str):
        report.drop("turn: without a text", where)
        return None, ""
    role = ROLES.get(str(message.get("from")).lower())
    if role is None:
        report.drop(f"turn: from {message.get('from')!r}", where)
        return None, ""
    text = message["value"]
    if not text.strip():
        report.drop("turn: empty", where)
        return None, ""
    try:
        check_encodable("value", text)
    except ValueError:
        report.drop("turn: holds half a character", where)
        return None, ""
    return role, text
