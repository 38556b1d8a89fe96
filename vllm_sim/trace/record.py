"""One record of a trace: a request as it was sent, and the response that was recorded.

The native format is one JSON object a line. A record has one prompt field and one response field:

    prompt            text                              response             text
    messages          OpenAI chat (with tools,          response_token_ids   token ids
                      chat_template_kwargs)             output_length        a number of tokens
    prompt_token_ids  token ids
    hash_ids          block ids, with input_length
                      and hash_block_size (default 512)

Optional fields are the attributes of Record; keys that are not known are kept in `extra` and otherwise ignored.

A field's type says what is allowed, and msgspec checks it. A line of known keys alone, as long traces have them, is
decoded into the type at once; any other is decoded first and looked at then.
"""

import json
import re
from operator import attrgetter
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
from msgspec import Meta

PROMPT_FIELDS = ("prompt", "messages", "prompt_token_ids", "hash_ids")
RESPONSE_FIELDS = ("response", "response_token_ids", "output_length")
HASH_BLOCK_SIZE = 512
MAX_TOKEN_ID = 2**31 - 1
MAX_LENGTH_TOKENS = 2**24
"""More than any model's context: a larger length is a mistake, and would be made of tokens all the same."""
MAX_NUMBER = 2**63 - 1
MAX_MS = 2**53
"""Up to here a float holds whole milliseconds."""


class TraceError(ValueError):
    """A trace that cannot be used: names the file, the line (from 1; 0 for the whole file) and the reason."""

    def __init__(self, path: object, line: int, reason: str):
        super().__init__(f"{path}, line {line}: {reason}" if line else f"{path}: {reason}")
        self.path, self.line, self.reason = path, line, reason


_TOKEN_ID = Annotated[int, Meta(ge=0, le=MAX_TOKEN_ID)]
_COUNT = Annotated[int, Meta(ge=0)]
_WORD = Annotated[int, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]
_REAL = Annotated[int, Meta(ge=0, le=MAX_MS)] | Annotated[float, Meta(ge=0, le=MAX_MS)]

# Types of fields; the description is what an error names as allowed.
Text = Annotated[str, Meta(description="a text")]
FullText = Annotated[str, Meta(min_length=1, description="a text that is not empty")]
Name = Annotated[str | _WORD, Meta(description="a text or a whole number (of 64 bits)")]
Whole = Annotated[_WORD, Meta(description="a whole number (of 64 bits)")]
Turn = Annotated[int, Meta(ge=0, le=MAX_NUMBER, description="a whole number (0 or more, of 64 bits)")]
Length = Annotated[int, Meta(ge=0, le=MAX_LENGTH_TOKENS, description=f"a number of tokens (0 to {MAX_LENGTH_TOKENS})")]
Size = Annotated[int, Meta(ge=1, le=MAX_LENGTH_TOKENS, description=f"a number of tokens (1 to {MAX_LENGTH_TOKENS})")]
Limit = Annotated[int, Meta(ge=1, le=MAX_NUMBER, description="a number of tokens (1 or more, of 64 bits)")]
Milliseconds = Annotated[_REAL, Meta(description=f"milliseconds (0 to {MAX_MS})")]
TokenIds = Annotated[list[_TOKEN_ID], Meta(description="a list of token ids (0 or more)")]
SomeTokenIds = Annotated[
    list[_TOKEN_ID], Meta(min_length=1, description="a list of token ids (0 or more), one at least")
]
BlockIds = Annotated[list[_COUNT], Meta(description="a list of block ids (0 or more)")]
Messages = Annotated[list[dict[str, Any]], Meta(min_length=1, description="a list of chat messages, one at least")]
Tools = Annotated[list[dict[str, Any]], Meta(description="a list of tools")]
Flag = Annotated[bool, Meta(description="true or false")]
Percent = Annotated[int, Meta(ge=0, le=100, description="a whole number (0 to 100)")]
Object = Annotated[dict[str, Any], Meta(description="an object")]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request and its recorded response. Exactly one prompt field and one response field are not None."""

    prompt: Text | None = None
    messages: Messages | None = None
    prompt_token_ids: SomeTokenIds | None = None
    hash_ids: BlockIds | None = None

    response: Text | None = None
    response_token_ids: TokenIds | None = None
    output_length: Length | None = None
    """Generated tokens, the end token included."""

    tools: Tools | None = None
    chat_template_kwargs: Object | None = None
    input_length: Size | None = None
    """Prompt tokens; with hash_ids only."""
    hash_block_size: Size | None = None
    """Tokens a hash id stands for; with hash_ids only, HASH_BLOCK_SIZE unless given."""

    id: Name | None = None
    timestamp: Milliseconds | None = None
    """Arrival, in milliseconds from the start of the trace."""
    session_id: Name | None = None
    turn: Turn | None = None
    workload: Text | None = None
    think_time_ms: Milliseconds | None = None
    """Time between the end of the session's previous answer and this request."""
    max_tokens: Limit | None = None
    finish_reason: Text | None = None
    cache_salt: FullText | None = None
    priority: Whole | None = None
    tenant: Name | None = None
    session_end: Flag | None = None
    """What the client says: whether its session is over with this request. This and what follows: hints.py."""
    next_turn_ms: Milliseconds | None = None
    retention_priority: Percent | None = None
    retention_ms: Milliseconds | None = None
    kv_hints: Object | None = None

    extra: dict[str, Any] = {}
    """Keys that the format does not know, as they were."""

    def to_json(self) -> dict[str, Any]:
        """The record as a JSON object, without what is None; reading it back gives an equal record."""
        known = {name: value for name in FIELDS if (value := getattr(self, name)) is not None}
        return known | self.extra

    def drop_contents(self) -> "Record":
        """Empties prompt and response, which a run has as tokens; which fields they are stays. Returns the record."""
        for (name, empty), value in zip(_CONTENTS.items(), _contents_of(self), strict=True):
            if value is not None:
                msgspec.structs.force_setattr(self, name, empty)
        return self


_CONTENTS: dict[str, Any] = {
    "prompt": "",
    "messages": [],
    "prompt_token_ids": [],
    "hash_ids": [],
    "response": "",
    "response_token_ids": [],
    "tools": None,
    "chat_template_kwargs": None,
}
"""Fields that hold what was said, and what stands for it."""
_contents_of = attrgetter(*_CONTENTS)
_DECODER = msgspec.json.Decoder(Record)
FIELDS = tuple(name for name in Record.__struct_fields__ if name != "extra")
_ALLOWED = {
    name: get_args(hint)[0].__metadata__[-1].description
    for name, hint in get_type_hints(Record, include_extras=True).items()
    if name in FIELDS
}
_PLACE = re.compile(r"`\$\.(\w+)(\[\d+\])?")
"""Where msgspec says that a value breaks a rule: the field, and of a list the entry."""


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
    if prompt_field == "hash_ids":
        known.setdefault("hash_block_size", HASH_BLOCK_SIZE)
    extra = {name: value for name, value in values.items() if name not in FIELDS}
    try:
        record = msgspec.convert(known | {"extra": extra}, Record)
    except msgspec.ValidationError as error:
        raise _refusal(known, str(error)) from None
    if prompt_field == "hash_ids":
        _check_hash_ids(record)
    for name in ("prompt", "response", "cache_salt"):
        if name in known:
            check_encodable(name, known[name])
    return record


def decode_record(line: bytes) -> Record | None:
    """A record from a line of JSON, if it is a plain one: for the others, good or bad, there is parse_record."""
    if b'"messages"' in line or b'"extra"' in line:
        return None
    try:
        record = _DECODER.decode(line)
        if record.tools is not None or record.chat_template_kwargs is not None:  # they may hold numbers of any size
            return None
        if _count(record.prompt, record.prompt_token_ids, record.hash_ids) != 1:
            return None
        if _count(record.response, record.response_token_ids, record.output_length) != 1:
            return None
        if record.hash_ids is not None:
            if record.hash_block_size is None:
                msgspec.structs.force_setattr(record, "hash_block_size", HASH_BLOCK_SIZE)
            _check_hash_ids(record)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return record


def _count(*values: object) -> int:
    """How many of these are there."""
    return len(values) - values.count(None)


def _refusal(known: dict[str, Any], message: str) -> ValueError:
    """The error for a value that breaks a rule of its field's type; msgspec's message has the place, not the value."""
    found = _PLACE.search(message)
    assert found is not None
    name, entry = found.groups()
    at = f" ({entry} is {_show(known[name][int(entry[1:-1])])})" if entry else ""
    return ValueError(f"{name} is {_show(known[name])}{at}; allowed: {_ALLOWED[name]}")


def _check_hash_ids(record: Record) -> None:
    ids, length, size = record.hash_ids, record.input_length, record.hash_block_size
    assert ids is not None
    assert size is not None
    if length is None:
        raise ValueError("hash_ids needs input_length, the number of prompt tokens")
    allowed = {length // size, -(-length // size)}
    if len(ids) not in allowed:
        raise ValueError(
            f"{len(ids)} hash_ids do not fit input_length {length} at hash_block_size {size}; "
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
