"""Which format a file or a folder has, by the names of files and by the keys of the first object in it."""

import json
from pathlib import Path
from typing import Any

from vllm_sim.trace.files import READ_ERRORS, open_bytes, read_error
from vllm_sim.trace.formats.sources import PACKED
from vllm_sim.trace.formats.tracelab import COLUMNS
from vllm_sim.trace.record import PROMPT_FIELDS, RESPONSE_FIELDS

_HEAD_BYTES = 1 << 22
"""Of a file; an object that is longer is not recognised."""
_KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sharegpt", ("conversations",)),
    ("weka", ("requests", "block_size")),
    ("tracelab", ("round_index", "input_tokens_total")),
    ("lmcache", ("chunk_hashes", "seq_len")),
    ("otel", ("resourceSpans",)),
    ("kv-events", ("ts", "events")),
    ("codex", ("timestamp", "type", "payload")),
    ("bailian", ("chat_id", "hash_ids")),
    ("mooncake-agentic", ("request_id", "hash_ids")),
    ("mooncake-agentic", ("schema", "block_size")),
    ("mooncake-agentic", ("session_id", "delay", "hash_ids")),
)
"""Formats by keys of an object, the first that fits."""


def guess_format(path: Path) -> str:
    """The name of the format.

    Raises:
        ValueError: it is none that is known, or several fit.
        TraceError: the file cannot be read.
    """
    file = path
    if path.is_dir():
        files = sorted(one for end in PACKED for name in ("*.jsonl", "*.json") for one in path.rglob(name + end))
        if not files:
            raise ValueError(f"{path} holds no .json and no .jsonl file; allowed: another folder, or a file")
        file = files[0]
    for row in _first_objects(file):
        found = _format_of(row)
        if found is not None:
            return found
    raise ValueError(f"{file} has no format that can be told from its first objects; allowed: --from FORMAT")


def _format_of(row: Any) -> str | None:
    if isinstance(row, list):
        return "kv-events" if len(row) >= 2 and isinstance(row[1], list) else None
    if not isinstance(row, dict):
        return None
    for name, keys in _KEYS:
        if all(key in row for key in keys):
            return name
    if "sessionId" in row or ("uuid" in row and "parentUuid" in row):
        return "claude-code"
    mooncake = ("timestamp", "input_length", "output_length", "hash_ids")
    if row.keys() == set(mooncake):
        return "mooncake"
    has_prompt, has_answer = (any(key in row for key in keys) for keys in (PROMPT_FIELDS, RESPONSE_FIELDS))
    if has_prompt and has_answer and not isinstance(row.get("response"), dict):
        return "native"
    if "messages" in row or "body" in row:
        return "openai"
    return "vllm-custom" if isinstance(row.get("prompt"), str) else None


def _first_objects(path: Path) -> list[Any]:
    """The first values of a file: of its lines, else the one that it holds, else the first of its array."""
    try:
        with open_bytes(path) as (file, _):
            head = file.read(_HEAD_BYTES)
    except READ_ERRORS as error:
        raise read_error(path, 0, error) from None
    text = head.decode(errors="replace").lstrip("\ufeff \t\r\n")
    if text.partition("\n")[0].strip().split(",") == list(COLUMNS):
        return [dict.fromkeys(("round_index", "input_tokens_total"))]
    if text.startswith("[") and text[1:].lstrip()[:1] == "{":
        text = text[1:].lstrip()
    found: list[Any] = []
    place = 0
    while place < len(text) and len(found) < 20:
        try:
            value, place = json.JSONDecoder().raw_decode(text, place)
        except ValueError:
            break
        found.append(value)
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
    return found
