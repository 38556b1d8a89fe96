"""What a response says: its choices, put together from one JSON object or from the events of a stream.

Both have the same form, except that a stream sends a `delta` where a whole response sends a `message`. Token ids are
read where vLLM 0.32 puts them with `return_token_ids`: the generated ones in each choice, those of the prompt in each
choice of a completion, but next to the choices of a chat.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class ToolCall:
    """A call of a function, as far as it has arrived."""

    id: str = ""
    name: str = ""
    arguments: str = ""

    def to_json(self) -> dict[str, Any]:
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}


@dataclass(slots=True)
class Choice:
    """One answer to one prompt, as far as it has arrived."""

    parts: list[str] = field(default_factory=list)
    reasoning_parts: list[str] = field(default_factory=list)
    tool_calls: dict[int, ToolCall] = field(default_factory=dict)
    token_ids: list[int] | None = None
    """Generated tokens, where upstream names them."""
    prompt_token_ids: list[int] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    refused: bool = False

    @property
    def text(self) -> str:
        return _join(self.parts)

    @property
    def reasoning(self) -> str:
        return _join(self.reasoning_parts)

    def message(self) -> dict[str, Any]:
        """The answer as the message that a client puts into the history."""
        message: dict[str, Any] = {"role": "assistant", "content": self.text}
        if self.reasoning:
            message["reasoning"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [call.to_json() for _, call in sorted(self.tool_calls.items())]
        return message


@dataclass(slots=True)
class Answer:
    """A response, as far as it has arrived."""

    id: str | None = None
    model: str | None = None
    choices: dict[int, Choice] = field(default_factory=dict)
    prompt_token_ids: list[int] | None = None
    """Of a chat."""
    completion_tokens: int | None = None
    """Generated tokens of all choices together, as upstream counts them."""
    reasoning_tokens: int = 0
    """How many of these were reasoning, where upstream says so."""
    failed: bool = False
    """Upstream said that it failed."""

    def add(self, value: Any) -> None:
        """Takes in a whole response or an event's data.

        Raises:
            ValueError: it has not the form of either; with the reason.
        """
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if value.get("error") is not None:
            self.failed = True
            return
        self.id = self.id or _text(value.get("id")) or None
        self.model = self.model or _text(value.get("model")) or None
        if _is_ids(value.get("prompt_token_ids")):
            self.prompt_token_ids = value["prompt_token_ids"]
        if isinstance(value.get("usage"), dict):
            self._add_usage(value["usage"])
        choices = value.get("choices")
        if not isinstance(choices, list):
            if choices is None and "usage" in value:
                return
            raise ValueError("no choices in it")
        for place, choice in enumerate(choices):
            if not isinstance(choice, dict):
                raise ValueError("a choice that is not an object")
            index = choice.get("index", place)
            if type(index) is not int or index < 0:
                raise ValueError("a choice whose index is not a whole number (0 or more)")
            _add_choice(self.choices.setdefault(index, Choice()), choice)

    def is_whole(self) -> bool:
        """Whether every choice that was begun has ended."""
        return not self.failed and bool(self.choices) and all(c.finish_reason for c in self.choices.values())

    def _add_usage(self, usage: Mapping[str, Any]) -> None:
        if type(usage.get("completion_tokens")) is int:
            self.completion_tokens = usage["completion_tokens"]
        details = usage.get("completion_tokens_details")
        if isinstance(details, dict) and type(details.get("reasoning_tokens")) is int:
            self.reasoning_tokens = details["reasoning_tokens"]


def _add_choice(choice: Choice, value: dict[str, Any]) -> None:
    message: dict[str, Any] = next(
        (value[name] for name in ("delta", "message") if isinstance(value.get(name), dict)), {}
    )
    choice.parts.append(_text(value.get("text")) or _text(message.get("content")))
    choice.reasoning_parts.append(_text(message.get("reasoning")) or _text(message.get("reasoning_content")))
    choice.refused = choice.refused or bool(message.get("refusal"))
    calls = message.get("tool_calls")
    for place, call in enumerate(calls if isinstance(calls, list) else []):
        _add_tool_call(choice, call, place)
    if isinstance(message.get("function_call"), dict):
        _add_tool_call(choice, {"function": message["function_call"]}, 0)
    if _is_ids(value.get("token_ids")):
        choice.token_ids = (choice.token_ids or []) + value["token_ids"]
    if _is_ids(value.get("prompt_token_ids")):
        choice.prompt_token_ids = value["prompt_token_ids"]
    choice.finish_reason = choice.finish_reason or _text(value.get("finish_reason")) or None
    if isinstance(value.get("stop_reason"), int | str):
        choice.stop_reason = value["stop_reason"]


def _add_tool_call(choice: Choice, value: Any, place: int) -> None:
    if not isinstance(value, dict):
        raise ValueError("a tool call that is not an object")
    index = value.get("index")
    call = choice.tool_calls.setdefault(index if type(index) is int else place, ToolCall())
    function = value.get("function")
    function = function if isinstance(function, dict) else {}
    call.id = call.id or _text(value.get("id"))
    call.name += _text(function.get("name"))
    call.arguments += _text(function.get("arguments"))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int for v in value)


def _join(parts: list[str]) -> str:
    """The parts as one text; a character above U+FFFF that JSON escapes cut into two events is whole again."""
    return "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
