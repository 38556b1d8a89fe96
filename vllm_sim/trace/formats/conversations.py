"""A conversation, and the requests that a server got for it: each assistant turn, with the history before it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from vllm_sim.trace.formats.options import Turns
from vllm_sim.trace.record import Record

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages as they were sent and answered; one assistant message at least."""

    id: str | int
    messages: list[Message]
    tools: list[dict[str, Any]] | None = None


def answer_text(message: Message) -> str:
    """What the model generated for an assistant message: its text, then its tool calls as the exported model's chat
    template writes them, so that a follow-up request has the same tokens in its history.
    """
    lines = [text] if (text := content_text(message.get("content"))) else []
    for call in message.get("tool_calls") or []:
        function = call.get("function") or call
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = json.loads(arguments) if arguments.strip() else {}
        name = json.dumps(function["name"], ensure_ascii=False)
        written = json.dumps(arguments or {}, ensure_ascii=False)
        lines.append(f'{{"name": {name}, "parameters": {written}}}')
    return "\n".join(lines)


def content_text(content: Any) -> str:
    """The text of a message's content: a text, None, or a list of text parts.

    Raises:
        ValueError: a part is not text.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"content is of type {type(content).__name__}; allowed: a text, null, a list of text parts")
    texts = []
    for part in content:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"a content part is {kind!r}; allowed: text")
        texts.append(part["text"])
    return "".join(texts)


def requests_of(conversation: Conversation, turns: Turns = "all") -> Iterator[Record]:
    """Yields a record for each assistant message, with all messages before it as its prompt.

    Turns are counted from 0; a turn that is left out keeps its number.
    """
    messages = conversation.messages
    places = [i for i, message in enumerate(messages) if message["role"] == "assistant" and i]
    chosen = {"all": slice(None), "first": slice(1), "last": slice(-1, None)}[turns]
    for turn, place in list(enumerate(places))[chosen]:
        yield Record(
            messages=messages[:place],
            response=answer_text(messages[place]),
            tools=conversation.tools,
            id=f"{conversation.id}-{turn}",
            session_id=conversation.id,
            turn=turn,
        )
