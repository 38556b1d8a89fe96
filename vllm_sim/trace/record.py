"""One record of a trace: a request as it was sent, and the response that was recorded.

The native format is one JSON object a line. A record has one prompt field and one response field:

    prompt            text                              response             text
    messages          OpenAI chat (with tools,          response_token_ids   token ids
                      chat_template_kwargs)             output_length        a number of tokens
    prompt_token_ids  token ids
    hash_ids          block ids, with input_length
                      and hash_block_size (default 512)

Optional fields are the attributes of Record; keys that are not known are kept in `extra` and otherwise ignored.
"""

import json
from dataclasses import dataclass, field, fields
from typing import Any

PROMPT_FIELDS = ("prompt", "messages", "prompt_token_ids", "hash_ids")
RESPONSE_FIELDS = ("response", "response_token_ids", "output_length")
HASH_BLOCK_SIZE = 512
MAX_TOKEN_ID = 2**31 - 1
MAX_LENGTH_TOKENS = 2**24
"""More than any model's context: a larger length is a mistake, and would be made of tokens all the same."""
MAX_NUMBER = 2**63 - 1
MAX_MS = 2**53
"""Up to here a float tells milliseconds apart."""


class TraceError(ValueError):
    """A trace that cannot be used: names the file, the line (from 1; 0 for the whole file) and the reason."""

    def __init__(self, path: object, line: int, reason: str):
        super().__init__(f"{path}, line {line}: {reason}" if line else f"{path}: {reason}")
        self.path, self.line, self.reason = path, line, reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A request and its recorded response. Exactly one prompt field and one response field are not None."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt_token_ids: list[int] | None = None
    hash_ids: list[int] | None = None

    response: str | None = None
    response_token_ids: list[int] | None = None
    output_length: int | None = None
    """Generated tokens, the end token included."""

    tools: list[dict[str, Any]] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    input_length: int | None = None
    """Prompt tokens; with hash_ids only."""
    hash_block_size: int | None = None
    """Tokens a hash id stands for; with hash_ids only, HASH_BLOCK_SIZE unless given."""

    id: str | int | None = None
    timestamp: float | None = None
    """Arrival, in milliseconds from the start of the trace."""
    session_id: str | int | None = None
    turn: int | None = None
    workload: str | None = None
    think_time_ms: float | None = None
    """Time between the end of the session's previous answer and this request."""
    max_tokens: int | None = None
    finish_reason: str | None = None
    cache_salt: str | None = None
    priority: int | None = None
    tenant: str | int | None = None

    extra: dict[str, Any] = field(default_factory=dict)
    """Keys that the format does not know, as they were."""

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, without what is None; reading it back gives an equal record."""
        known = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        return known | self.extra


FIELDS = tuple(f.name for f in fields(Record) if f.name != "extra")


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and value == value and abs(value) != float("inf"))


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and all(type(v) is int and 0 <= v <= MAX_TOKEN_ID for v in value)


def _is_object_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) for v in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_word(value: Any) -> bool:
    return _is_int(value) and abs(value) <= MAX_NUMBER


def _is_name(value: Any) -> bool:
    return isinstance(value, str) or _is_word(value)


def _is_count(value: Any) -> bool:
    return _is_int(value) and value >= 0


def _is_length(value: Any) -> bool:
    return _is_count(value) and value <= MAX_LENGTH_TOKENS


def _is_size(value: Any) -> bool:
    return _is_length(value) and value > 0


def _is_time(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= MAX_MS


_SIZE = f"a number of tokens (1 to {MAX_LENGTH_TOKENS})"
_NAME = "a text or a whole number (of 64 bits)"
_TIME = f"milliseconds (0 to {MAX_MS})"
# field: (test, what is allowed)
_RULES = {
    "prompt": (_is_text, "a text"),
    "messages": (lambda v: _is_object_list(v) and bool(v), "a list of chat messages, one at least"),
    "prompt_token_ids": (lambda v: _is_token_list(v) and bool(v), "a list of token ids (0 or more), one at least"),
    "hash_ids": (lambda v: isinstance(v, list) and all(map(_is_count, v)), "a list of block ids (0 or more)"),
    "response": (_is_text, "a text"),
    "response_token_ids": (_is_token_list, "a list of token ids (0 or more)"),
    "output_length": (_is_length, f"a number of tokens (0 to {MAX_LENGTH_TOKENS})"),
    "tools": (_is_object_list, "a list of tools"),
    "chat_template_kwargs": (lambda v: isinstance(v, dict), "an object"),
    "input_length": (_is_size, _SIZE),
    "hash_block_size": (_is_size, _SIZE),
    "id": (_is_name, _NAME),
    "timestamp": (_is_time, _TIME),
    "session_id": (_is_name, _NAME),
    "turn": (lambda v: _is_count(v) and _is_word(v), "a whole number (0 or more, of 64 bits)"),
    "workload": (_is_text, "a text"),
    "think_time_ms": (_is_time, _TIME),
    "max_tokens": (lambda v: _is_word(v) and v > 0, "a number of tokens (1 or more, of 64 bits)"),
    "finish_reason": (_is_text, "a text"),
    "cache_salt": (lambda v: _is_text(v) and v != "", "a text that is not empty"),
    "priority": (_is_word, "a whole number (of 64 bits)"),
    "tenant": (_is_name, _NAME),
}


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_of(names: tuple[str, ...], values: dict[str, Any], what: str) -> str:
    found = [name for name in names if name in values]
    if len(found) != 1:
        count = " and ".join(found) if found else "none"
        raise ValueError(f"a record has one {what} field ({', '.join(names)}), this one has {count}")
    return found[0]


def parse_record(values: Any) -> Record:
    """A record from a decoded JSON object.

    Raises:
        ValueError: the object breaks a rule of the format; the message names the field, the value and what is allowed.
    """
    if not isinstance(values, dict):
        raise ValueError(f"a record is a JSON object, this is {_show(values)}")
    known = {name: values[name] for name in FIELDS if values.get(name) is not None}
    prompt_field = _one_of(PROMPT_FIELDS, known, "prompt")
    _one_of(RESPONSE_FIELDS, known, "response")
    for name, value in known.items():
        allowed, what = _RULES[name]
        if not allowed(value):
            raise ValueError(f"{name} is {_show(value)}; allowed: {what}")
    if prompt_field == "hash_ids":
        _check_hash_ids(known)
    for name in ("prompt", "response", "cache_salt"):
        if isinstance(known.get(name), str):
            check_encodable(name, known[name])
    extra = {name: value for name, value in values.items() if name not in _RULES}
    return Record(**known, extra=extra)


def _check_hash_ids(known: dict[str, Any]) -> None:
    length = known.get("input_length")
    if length is None:
        raise ValueError("hash_ids needs input_length, the number of prompt tokens")
    size = known.setdefault("hash_block_size", HASH_BLOCK_SIZE)
    allowed = {length // size, -(-length // size)}
    if len(known["hash_ids"]) not in allowed:
        raise ValueError(
            f"{len(known['hash_ids'])} hash_ids do not fit input_length {length} at hash_block_size {size}; "
            f"allowed: {' or '.join(map(str, sorted(allowed)))}"
        )


def check_encodable(name: str, text: str) -> None:
    """Raises ValueError if a text holds half a character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds half a character (surrogate U+{ord(text[error.start]):04X} at {error.start}), "
            "which no tokenizer can encode"
        ) from None
