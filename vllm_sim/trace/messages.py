"""The messages of a chat as a chat template sees them, and what a request may hand to the template.

Faithful to vLLM 0.32, vllm/renderers/chat_utils.py, for templates that take contents as text. Looked at without a
model, so that `vllm-sim trace validate` finds what a replay would refuse.
"""

import json
from typing import Any

_TEXT_PARTS = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""The key that holds the text of a content part, by its type."""
_RESERVED = ("messages", "tools", "self")
"""What a template is given otherwise."""


def check_template_options(options: dict[str, Any] | None) -> None:
    """Looks at what a request sent as chat_template_kwargs.

    Raises:
        ValueError: it names what is not its own.
    """
    for name in _RESERVED:
        if name in (options or {}):
            raise ValueError(f"chat_template_kwargs has {name!r}; allowed: any name but {', '.join(_RESERVED)}")


def normalise(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns of a chat as a template sees them.

    Raises:
        ValueError: a message that vLLM would refuse.
    """
    return [_normalise(message) for message in messages]


def _normalise(message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str):
        raise ValueError(f"messages: a message has a role, this one has {role!r}")
    result: dict[str, Any] = {"role": role, "content": _text_of(message.get("content"))}
    if role == "assistant":
        if message.get("tool_calls"):
            result["tool_calls"] = _normalise_calls(message["tool_calls"])
        if message.get("reasoning") is not None:
            result["reasoning"] = result["reasoning_content"] = message["reasoning"]
    if role == "tool" and "tool_call_id" in message:
        result["tool_call_id"] = message["tool_call_id"]
    if isinstance(message.get("name"), str):
        result["name"] = message["name"]
    return result


def _text_of(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"messages: content is {type(content).__name__}; allowed: a text, a list of text parts, null")
    parts = (part if isinstance(part, str) else _text_part(part) for part in content)
    return "\n".join(part for part in parts if part)


def _text_part(part: Any) -> str:
    kind = part.get("type", "text") if isinstance(part, dict) else type(part).__name__
    if not isinstance(kind, str) or kind not in _TEXT_PARTS:
        raise ValueError(f"messages: a part of type {kind!r}; allowed: {', '.join(_TEXT_PARTS)} (no media)")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise ValueError(f"messages: a part of type {kind!r} without text")
    return text


def with_one_system_turn(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What vLLM does where a template knows no developer role: system and developer turns become one system turn."""
    instructions = [turn["content"] for turn in turns if turn["role"] in ("system", "developer")]
    others = [turn for turn in turns if turn["role"] not in ("system", "developer")]
    return [{"role": "system", "content": "\n\n".join(filter(None, instructions))}, *others]


def _normalise_calls(calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise ValueError(f"messages: tool_calls is {calls!r:.60}; allowed: a list of calls")
    return [_normalise_call(call) for call in calls]


def _normalise_call(call: Any) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") != "function":
        raise ValueError("messages: tool_calls holds an entry that is not of type 'function'")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    return {**call, "function": {**function, "arguments": arguments if isinstance(arguments, dict) else {}}}
