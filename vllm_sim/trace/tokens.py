"""The tokens of a trace: those of its texts and lists, computed once and kept (token_cache.py), and those that it gives
as hash ids and lengths only, made when they are needed.

A trace's folder lies under $XDG_CACHE_HOME/vllm-sim (else ~/.cache/vllm-sim), named by a hash over the trace, the
tokenizer's files and the code of this layer. Memory while it is built: one chunk of records, and 100 bytes a distinct
hash id; after that what is touched of 4 bytes a token of text, 8 bytes a hash id and 98 bytes a record.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vllm_sim.provenance import file_sha256, fingerprint
from vllm_sim.sources import cache_root
from vllm_sim.trace.files import check_is_file, iter_records
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.token_cache import load_arrays
from vllm_sim.trace.vocabulary import Vocabulary

DIGEST_BYTES = 16
# Where the response's part of a row's stream of fresh tokens begins, far after any prompt's tail.
_RESPONSE_START = 2**32
_CHUNK_RECORDS = 2000
_CHUNK_CHARACTERS = 20_000_000
_ARRAYS: dict[str, Any] = {
    "prompt_tokens": np.int32,
    "prompt_ends": np.int64,
    "prompt_lengths": np.int64,
    "hash_ids": np.int64,
    "hash_ends": np.int64,
    "hash_block_sizes": np.int64,
    "digests": np.dtype((np.void, DIGEST_BYTES)),
    "response_tokens": np.int32,
    "response_ends": np.int64,
    "response_lengths": np.int64,
    "has_end": np.bool_,
    "lines": np.int64,
    "cut": np.bool_,
    "end_token_ids": np.int32,
}


def prompt_digest(tokens: NDArray[np.int32]) -> bytes:
    """The key of a prompt: 16 bytes of BLAKE2b over its token ids (int32, in the machine's byte order)."""
    return hashlib.blake2b(tokens.tobytes(), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class TokenisedTrace:
    """The rows of a trace as tokens. All arrays are read-only and mapped from the cache; n is the number of rows."""

    folder: Path
    """Where the arrays lie; what is derived from them may be kept here, under a name of its own."""
    sha256: str
    """Of the trace's file."""
    vocabulary: Vocabulary
    """Makes the tokens that the trace does not have."""
    prompt_tokens: NDArray[np.int32]
    """Prompts of the rows that have no hash ids, one after the other."""
    prompt_offsets: NDArray[np.int64]
    """[n + 1], into prompt_tokens."""
    prompt_lengths: NDArray[np.int64]
    """[n], tokens."""
    hash_ids: NDArray[np.int64]
    """Hash ids of all rows, one after the other, as numbers in the order of first appearance."""
    hash_offsets: NDArray[np.int64]
    """[n + 1], into hash_ids."""
    hash_block_sizes: NDArray[np.int64]
    """[n], tokens an id stands for; 0 for a row without ids."""
    digests: NDArray[np.void]
    """[n], prompt_digest of each prompt; zeros for a row of hash ids, see `digest`."""
    response_tokens: NDArray[np.int32]
    """Generated tokens of the rows that have more than a number of them, the end token included."""
    response_offsets: NDArray[np.int64]
    """[n + 1], into response_tokens; a row whose tokens are made has none there."""
    response_lengths: NDArray[np.int64]
    """[n], tokens."""
    has_end: NDArray[np.bool_]
    """[n], whether made tokens end with an end token; false for others."""
    lines: NDArray[np.int64]
    """[n], the line of each row in the trace."""
    cut: NDArray[np.bool_]
    """[n], whether the recorded response ended because its length was reached."""
    end_token_ids: frozenset[int]
    """Of the model, so that nobody loads a tokenizer for them."""

    def __len__(self) -> int:
        return len(self.lines)

    def prompt(self, row: int) -> NDArray[np.int32]:
        """Prompt tokens of a row, [tokens]; those of hash ids are made, the same for the same ids."""
        size = int(self.hash_block_sizes[row])
        if not size:
            return self.prompt_tokens[self.prompt_offsets[row] : self.prompt_offsets[row + 1]]
        return self.vocabulary.filler.hash_prompt(self.ids(row), size, int(self.prompt_lengths[row]), row)

    def ids(self, row: int) -> NDArray[np.int64]:
        """Hash ids of a row, [blocks], as numbers in the order of first appearance; empty where it has none."""
        return self.hash_ids[self.hash_offsets[row] : self.hash_offsets[row + 1]]

    def digest(self, row: int) -> bytes:
        """`prompt_digest` of a row's prompt."""
        return prompt_digest(self.prompt(row)) if self.hash_block_sizes[row] else self.digests[row].tobytes()

    def is_made(self, row: int) -> bool:
        """Whether the trace has the number of generated tokens only."""
        return bool(self.response_offsets[row] == self.response_offsets[row + 1])

    def response(self, row: int) -> NDArray[np.int32]:
        """Generated tokens of a row, [tokens]; where the trace has their number only, fresh ones."""
        if not self.is_made(row):
            return self.response_tokens[self.response_offsets[row] : self.response_offsets[row + 1]]
        has_end = bool(self.has_end[row])
        tokens = self.vocabulary.filler.fresh(row, _RESPONSE_START, int(self.response_lengths[row]) - has_end)
        if not has_end:
            return tokens
        assert self.vocabulary.eos_token_id is not None
        return np.append(tokens, np.int32(self.vocabulary.eos_token_id))


def cache_folder() -> Path:
    """The folder that holds the tokens of all traces; it may be deleted at any time."""
    return cache_root() / "tokens"


def load_tokenised(path: Path, model: str | Path | Vocabulary | None) -> TokenisedTrace:
    """The tokens of a trace, from the cache, or computed and put there.

    Args:
        path: The trace, in the native format.
        model: The tokenizer, or the folder of the model that has it, or its name on the hub; None does where the
            trace has no text.

    Raises:
        TraceError: a line that is not a record or that has no tokens, or a text without a tokenizer, with file and
            line.
        ValueError: there is no such model.
    """
    trace_hash = _hash_file(path)
    vocabulary = model if isinstance(model, Vocabulary) else Vocabulary(model)
    key = hashlib.sha256(f"{fingerprint(load_tokenised)} {trace_hash}".encode())
    for part in vocabulary.fingerprint():
        key.update(hashlib.sha256(part).digest())
    folder = cache_folder() / key.hexdigest()[:32]
    about = {"trace": str(path), "model": str(vocabulary.model or "")}
    arrays = dict(load_arrays(folder, _ARRAYS, lambda files: _write_rows(path, vocabulary, files), about))
    return TokenisedTrace(
        folder=folder,
        sha256=trace_hash,
        vocabulary=vocabulary,
        prompt_offsets=np.concatenate([[0], arrays.pop("prompt_ends")]),
        hash_offsets=np.concatenate([[0], arrays.pop("hash_ends")]),
        response_offsets=np.concatenate([[0], arrays.pop("response_ends")]),
        end_token_ids=frozenset(arrays.pop("end_token_ids").tolist()),
        **arrays,
    )


def check_tokens(record: Record, vocabulary: Vocabulary) -> None:
    """Raises ValueError if a record has no tokens under a vocabulary."""
    _prompts([record], vocabulary)
    _responses([record], vocabulary)


def _hash_file(path: Path) -> str:
    check_is_file(path)
    try:
        return file_sha256(path)
    except OSError as error:
        raise TraceError(path, 0, f"cannot be read: {error.strerror}") from None


class _Fault(ValueError):
    """A record of a chunk that has no tokens."""

    def __init__(self, place: int, reason: str):
        super().__init__(reason)
        self.place = place


def _write_rows(path: Path, vocabulary: Vocabulary, files: Mapping[str, IO[bytes]]) -> None:
    files["end_token_ids"].write(np.array(sorted(vocabulary.end_token_ids), np.int32).tobytes())
    numbers: dict[int, int] = {}
    ends = {"prompt": 0, "hash": 0, "response": 0}
    for chunk in _chunks(iter_records(path)):
        records = [record for _, record in chunk]
        try:
            prompts, responses = _prompts(records, vocabulary), _responses(records, vocabulary)
        except _Fault as fault:
            raise TraceError(path, chunk[fault.place][0], str(fault)) from None
        ids = [[numbers.setdefault(one, len(numbers)) for one in record.hash_ids or ()] for record in records]
        # A generation has one token at least.
        made = [max(record.output_length or 0, 1) for record in records]
        values: dict[str, Any] = {
            "digests": [prompt_digest(prompt) if len(prompt) else bytes(DIGEST_BYTES) for prompt in prompts],
            "prompt_lengths": [r.input_length or len(p) for r, p in zip(records, prompts, strict=True)],
            "hash_block_sizes": [record.hash_block_size or 0 for record in records],
            "response_lengths": [len(a) or count for a, count in zip(responses, made, strict=True)],
            "has_end": [_has_end(record, vocabulary) for record in records],
            "lines": [line for line, _ in chunk],
            "cut": [_is_cut(record) for record in records],
        }
        for name, rows in (("prompt", prompts), ("hash", ids), ("response", responses)):
            row_ends = ends[name] + np.cumsum([len(row) for row in rows])
            values[f"{name}_ends"], ends[name] = row_ends, int(row_ends[-1])
            values["hash_ids" if name == "hash" else f"{name}_tokens"] = np.concatenate(rows)
        for name, column in values.items():
            files[name].write(np.asarray(column, dtype=_ARRAYS[name]).tobytes())


def _is_cut(record: Record) -> bool:
    return record.finish_reason == "length" and record.output_length != 0 and record.response != ""


def _chunks(records: Iterator[tuple[int, Record]]) -> Iterator[list[tuple[int, Record]]]:
    """Groups rows so that the tokenizer can use all cores, with a bound on the text held at once."""
    for first in records:
        chunk, characters = [first], _characters(first[1])
        for item in islice(records, _CHUNK_RECORDS - 1):
            chunk.append(item)
            characters += _characters(item[1])
            if characters > _CHUNK_CHARACTERS:
                break
        yield chunk


def _characters(record: Record) -> int:
    messages = record.messages or []
    return len(record.prompt or "") + len(record.response or "") + sum(len(str(m.get("content"))) for m in messages)


def _encoded(texts: Mapping[int, str], encode: Callable[[Sequence[str]], list[list[int]]]) -> dict[int, list[int]]:
    """Token ids of texts, all by their places in the chunk."""
    if not texts:
        return {}
    try:
        return dict(zip(texts, encode(list(texts.values())), strict=True))
    except ValueError as error:  # there is no tokenizer
        raise _Fault(min(texts), str(error)) from None


def _prompts(records: Sequence[Record], vocabulary: Vocabulary) -> list[NDArray[np.int32]]:
    """Prompt tokens of a chunk; none for rows of hash ids."""
    chats: dict[int, str] = {}
    result: dict[int, Any] = {}
    for place, record in enumerate(records):
        try:
            if record.messages is not None:
                chats[place] = vocabulary.render_chat(record.messages, record.tools, record.chat_template_kwargs)
                chats[place].encode()  # half a character has no tokens
        except UnicodeEncodeError:
            raise _Fault(place, "messages: a text holds half a character, which cannot be encoded") from None
        except ValueError as error:
            raise _Fault(place, str(error)) from None
        result[place] = record.prompt_token_ids or []
    texts = {place: record.prompt for place, record in enumerate(records) if record.prompt is not None}
    result |= _encoded(texts, vocabulary.encode_prompts) | _encoded(chats, vocabulary.encode_chats)
    for place, record in enumerate(records):
        if not len(result[place]) and record.hash_ids is None:
            raise _Fault(place, "the prompt has no token; allowed: one at least")
    return [np.asarray(result[place], dtype=np.int32) for place in range(len(records))]


def _has_end(record: Record, vocabulary: Vocabulary) -> bool:
    """Whether a made response ends with an end token."""
    return record.output_length is not None and record.finish_reason != "length" and vocabulary.eos_token_id is not None


def _responses(records: Sequence[Record], vocabulary: Vocabulary) -> list[NDArray[np.int32]]:
    """Generated tokens of a chunk; none for rows that have their number only."""
    texts = {place: record.response for place, record in enumerate(records) if record.response is not None}
    encoded = _encoded(texts, vocabulary.encode_responses)
    result = []
    for place, record in enumerate(records):
        if record.output_length is not None:
            result.append(np.empty(0, dtype=np.int32))
            continue
        ids = encoded.get(place, record.response_token_ids)
        assert ids is not None
        ends = [i for i, token in enumerate(ids) if token in vocabulary.end_token_ids]
        if ends and ends[0] != len(ids) - 1:
            raise _Fault(place, f"response_token_ids goes on after end token {ids[ends[0]]} at place {ends[0]}")
        tokens = np.asarray(ids, dtype=np.int32)
        # Without a model no end token is known: the list is taken as whole.
        if not ends and not (record.finish_reason == "length" and len(ids)) and vocabulary.model is not None:
            if vocabulary.eos_token_id is None:
                raise _Fault(place, f"{vocabulary.model} names no end token to put after the response")
            tokens = np.append(tokens, np.int32(vocabulary.eos_token_id))
        result.append(tokens)
    return result
