"""What a request to record says: prompts, choices, and the fields of a record that are known before the response.

Read from the body of POST /v1/completions and /v1/chat/completions, as vLLM 0.32 has them in
entrypoints/openai/{completion,chat_completion}/protocol.py. Headers are looked at for the session and nothing else.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

CHAT_PATH = b"/v1/chat/completions"
COMPLETIONS_PATH = b"/v1/completions"
RECORDED_PATHS = (CHAT_PATH, COMPLETIONS_PATH)
SESSION_HEADER = b"x-session-id"

# Parameters that change the tokens of the prompt and that the trace format does not hold, with what they do nothing at.
_CHAT_SHAPING: dict[str, Any] = {
    "add_generation_prompt": True,
    "add_special_tokens": False,
    "chat_template": None,
    "continue_final_message": False,
    "documents": None,
    "echo": False,
    "functions": None,
    "reasoning_effort": None,
    "truncate_prompt_tokens": None,
}
_COMPLETIONS_SHAPING: dict[str, Any] = {"add_special_tokens": True, "suffix": None, "truncate_prompt_tokens": None}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be recorded."""

    chat: bool
    prompts: list[dict[str, Any]]
    """The prompt field of each prompt's records, as {name: value}."""
    choices: int
    """Answers to each prompt."""
    fields: dict[str, Any]
    """Fields that all its records share."""
    session_id: str | int | None
    """As the client gave it."""
    shaped_by: tuple[str, ...]
    """What changes the tokens of the prompt and is not in the trace format."""
    has_media: bool
    """Whether a message holds something other than text."""
    echo: bool
    """Completions: the prompt is repeated before the answer."""
    ignores_end: bool
    """Generation goes on after end tokens."""
    hides_reasoning: bool


class UnreadableRequest(ValueError):
    """A body that is no request which a record could be made of; with the reason."""


def read_request(path: bytes, session_header: bytes | None, body: Mapping[str, Any]) -> Request:
    """A request from its decoded body.

    Raises:
        UnreadableRequest: there is no prompt, or `n` is no number; upstream would refuse most of these itself.
    """
    chat = path == CHAT_PATH
    prompts = [{"messages": body.get("messages")}] if chat else _completion_prompts(body.get("prompt"))
    choices = 1 if body.get("n") is None else body["n"]
    if type(choices) is not int or choices < 1:
        raise UnreadableRequest("n is not a whole number (1 or more)")
    if chat and not (isinstance(body.get("messages"), list) and all(isinstance(m, dict) for m in body["messages"])):
        raise UnreadableRequest("messages is not a list of objects")
    shaping = _CHAT_SHAPING if chat else _COMPLETIONS_SHAPING
    return Request(
        chat=chat,
        prompts=prompts,
        choices=choices,
        fields=_record_fields(body, chat),
        session_id=_session_id(session_header, body),
        shaped_by=tuple(name for name, default in shaping.items() if body.get(name) not in (None, default)),
        has_media=chat and any(map(_holds_media, body["messages"])),
        echo=not chat and body.get("echo") is True,
        ignores_end=body.get("ignore_eos") is True,
        hides_reasoning=body.get("include_reasoning") is False,
    )


def may_ask_for_token_ids(request: Request, body: Mapping[str, Any]) -> bool:
    """Whether `return_token_ids` may be added: not where the client decided itself, nor where it changes the text.

    With `echo`, vLLM leaves the prompt's text out of an answer that has its token ids.
    """
    return "return_token_ids" not in body and not request.echo


def with_token_ids(body: bytes) -> bytes:
    """The body with `return_token_ids` put in front; its other bytes stay as they were.

    Args:
        body: A JSON object with one key at least, in UTF-8.
    """
    start = body.index(b"{") + 1
    return body[:start] + b'"return_token_ids":true,' + body[start:]


def _completion_prompts(prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"prompt": prompt}]
    if isinstance(prompt, list) and prompt:
        if all(isinstance(p, str) for p in prompt):
            return [{"prompt": p} for p in prompt]
        if all(type(p) is int for p in prompt):
            return [{"prompt_token_ids": prompt}]
        if all(isinstance(p, list) and p and all(type(i) is int for i in p) for p in prompt):
            return [{"prompt_token_ids": p} for p in prompt]
    raise UnreadableRequest("prompt is neither text nor token ids, nor a list of these")


def _record_fields(body: Mapping[str, Any], chat: bool) -> dict[str, Any]:
    names = ["cache_salt", "priority"] + (["tools", "chat_template_kwargs"] if chat else [])
    fields = {name: body[name] for name in names if body.get(name) is not None}
    if not fields.get("tools", True):
        del fields["tools"]  # an empty list, which templates may not take for no list
    max_tokens = body.get("max_completion_tokens") if chat else None
    max_tokens = body.get("max_tokens") if max_tokens is None else max_tokens
    if type(max_tokens) is int and max_tokens > 0:
        fields["max_tokens"] = max_tokens
    if isinstance(body.get("user"), str) and body["user"]:
        fields["tenant"] = body["user"]
    return fields


def _session_id(header: bytes | None, body: Mapping[str, Any]) -> str | int | None:
    """The header, else the body's `session_id` (vLLM), else `metadata.session_id` (OpenAI).

    `user` is none: one user has many conversations.
    """
    if header:
        return header.decode("latin-1")
    metadata = body.get("metadata")
    for value in (body.get("session_id"), metadata.get("session_id") if isinstance(metadata, dict) else None):
        if (isinstance(value, str) and value) or type(value) is int:
            return value
    return None


def _holds_media(message: dict[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(
        not isinstance(part, str) and not (isinstance(part, dict) and isinstance(part.get("text"), str))
        for part in content
    )


def parse_body(body: bytes) -> dict[str, Any] | None:
    """The JSON object in a body, or None."""
    try:
        value = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
