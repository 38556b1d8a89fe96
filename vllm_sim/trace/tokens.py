"""The tokens of a trace, computed once and kept in a cache that every process maps into its memory.

A trace's cache is a folder under $XDG_CACHE_HOME/vllm-sim (else ~/.cache/vllm-sim), named by a hash over the trace, the
tokenizer's files and the code of this layer. It is written under a temporary name and renamed when it is whole, so that
several processes may build it at the same time. Memory while building: one chunk of records; after that what is
touched of 4 bytes a token and 41 bytes a record.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from vllm_sim.provenance import file_sha256, fingerprint
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.vocabulary import Vocabulary

DIGEST_BYTES = 16
# Where the response's part of a row's stream of fresh tokens begins, far behind any prompt's tail.
_RESPONSE_START = 2**32
_ABOUT = "about.json"
_CHUNK_RECORDS = 2000
_CHUNK_CHARACTERS = 20_000_000
_ARRAYS: dict[str, Any] = {
    "prompt_tokens": np.int32,
    "prompt_ends": np.int64,
    "response_tokens": np.int32,
    "response_ends": np.int64,
    "digests": np.dtype((np.void, DIGEST_BYTES)),
    "lines": np.int64,
    "cut": np.bool_,
}


def prompt_digest(tokens: NDArray[np.int32]) -> bytes:
    """The key of a prompt: 16 bytes of BLAKE2b over its token ids (int32, in the machine's byte order)."""
    return hashlib.blake2b(tokens.tobytes(), digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True, slots=True)
class TokenisedTrace:
    """The rows of a trace as tokens. All arrays are read-only and mapped from the cache; n is the number of rows."""

    folder: Path
    """Where the arrays lie; whoever derives something from them may keep it here, under a name of its own."""
    sha256: str
    """Of the trace's file."""
    prompt_tokens: NDArray[np.int32]
    """Prompts of all rows, one behind the other."""
    prompt_offsets: NDArray[np.int64]
    """[n + 1]; row i has prompt_tokens[prompt_offsets[i] : prompt_offsets[i + 1]]."""
    response_tokens: NDArray[np.int32]
    """Generated tokens of all rows, the end token included where the response ends with one."""
    response_offsets: NDArray[np.int64]
    """[n + 1]."""
    digests: NDArray[np.void]
    """[n], prompt_digest of each prompt."""
    lines: NDArray[np.int64]
    """[n], the line of each row in the trace."""
    cut: NDArray[np.bool_]
    """[n], whether the recorded response ended because its length was reached."""
    end_token_ids: frozenset[int]
    """Of the model, so that nobody loads a tokenizer for them."""

    def __len__(self) -> int:
        return len(self.lines)

    def prompt(self, row: int) -> NDArray[np.int32]:
        """Prompt tokens of a row."""
        return self.prompt_tokens[self.prompt_offsets[row] : self.prompt_offsets[row + 1]]

    def response(self, row: int) -> NDArray[np.int32]:
        """Generated tokens of a row."""
        return self.response_tokens[self.response_offsets[row] : self.response_offsets[row + 1]]


def cache_folder() -> Path:
    """The folder that holds the tokens of all traces; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-sim" / "tokens"


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
    if not folder.is_dir():
        _build(path, vocabulary, folder)
    arrays = {name: _map(folder / name, dtype) for name, dtype in _ARRAYS.items()}
    return TokenisedTrace(
        folder=folder,
        sha256=trace_hash,
        prompt_offsets=np.concatenate([[0], arrays.pop("prompt_ends")]),
        response_offsets=np.concatenate([[0], arrays.pop("response_ends")]),
        end_token_ids=frozenset(json.loads((folder / _ABOUT).read_text())["end_token_ids"]),
        **arrays,
    )


def _hash_file(path: Path) -> str:
    try:
        return file_sha256(path)
    except FileNotFoundError:
        next(iter_records(path))  # raises with the folder in which the file was looked for
        raise
    except OSError as error:
        raise TraceError(path, 0, f"cannot be read: {error.strerror}") from None


def _map(path: Path, dtype: Any) -> NDArray[Any]:
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _build(path: Path, vocabulary: Vocabulary, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        files = {name: (temporary / name).open("wb") for name in _ARRAYS}
        try:
            _write_rows(path, vocabulary, files)
        finally:
            for file in files.values():
                file.close()
        ends = sorted(vocabulary.end_token_ids)
        about = {"trace": str(path), "model": str(vocabulary.model or ""), "end_token_ids": ends}
        (temporary / _ABOUT).write_text(json.dumps(about))
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_rows(path: Path, vocabulary: Vocabulary, files: Mapping[str, IO[bytes]]) -> None:
    row = prompt_end = response_end = 0
    for chunk in _chunks(iter_records(path)):
        prompts = _prompts(path, vocabulary, chunk, row)
        responses = _responses(path, vocabulary, chunk, row)
        for (line, record), prompt, response in zip(chunk, prompts, responses, strict=True):
            prompt_end += len(prompt)
            response_end += len(response)
            cut = record.finish_reason == "length" and (record.output_length != 0 and record.response != "")
            values = {
                "prompt_tokens": prompt.tobytes(),
                "prompt_ends": np.int64(prompt_end).tobytes(),
                "response_tokens": response.tobytes(),
                "response_ends": np.int64(response_end).tobytes(),
                "digests": prompt_digest(prompt),
                "lines": np.int64(line).tobytes(),
                "cut": np.bool_(cut).tobytes(),
            }
            for name, value in values.items():
                files[name].write(value)
        row += len(chunk)


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


def _prompts(
    path: Path, vocabulary: Vocabulary, chunk: list[tuple[int, Record]], first_row: int
) -> list[NDArray[np.int32]]:
    chats: dict[int, str] = {}
    result: dict[int, Any] = {}
    for place, (line, record) in enumerate(chunk):
        try:
            if record.messages is not None:
                chats[place] = vocabulary.render_chat(record.messages, record.tools, record.chat_template_kwargs)
                chats[place].encode()  # half a character has no tokens
            elif record.prompt_token_ids is not None:
                result[place] = record.prompt_token_ids
            elif record.hash_ids is not None:
                assert record.input_length is not None
                assert record.hash_block_size is not None
                result[place] = vocabulary.filler.hash_prompt(
                    record.hash_ids, record.hash_block_size, record.input_length, first_row + place
                )
        except UnicodeEncodeError:
            raise TraceError(path, line, "messages: a text holds half a character, which cannot be encoded") from None
        except ValueError as error:
            raise TraceError(path, line, str(error)) from None
    texts = {place: r.prompt for place, (_, r) in enumerate(chunk) if r.prompt is not None}
    result.update(_encode(path, chunk, texts, vocabulary.encode_prompts))
    result.update(_encode(path, chunk, chats, vocabulary.encode_chats))
    for place, (line, _) in enumerate(chunk):
        if not len(result[place]):
            raise TraceError(path, line, "the prompt has no token; allowed: one at least")
    return [np.asarray(result[place], dtype=np.int32) for place in range(len(chunk))]


def _encode(
    path: Path,
    chunk: list[tuple[int, Record]],
    texts: Mapping[int, str],
    encode: Callable[[Sequence[str]], list[list[int]]],
) -> Mapping[int, list[int]]:
    """The tokens of texts, all by their rows' places in the chunk."""
    if not texts:
        return {}
    try:
        return dict(zip(texts, encode(list(texts.values())), strict=True))
    except ValueError as error:  # there is no tokenizer
        raise TraceError(path, chunk[min(texts)][0], str(error)) from None


def _responses(
    path: Path, vocabulary: Vocabulary, chunk: list[tuple[int, Record]], first_row: int
) -> list[NDArray[np.int32]]:
    texts = {place: r.response for place, (_, r) in enumerate(chunk) if r.response is not None}
    encoded = _encode(path, chunk, texts, vocabulary.encode_responses)
    result = []
    for place, (line, record) in enumerate(chunk):
        if record.output_length is not None:
            cut = record.finish_reason == "length" or vocabulary.eos_token_id is None
            count = max(record.output_length, 1)  # a generation has one token at least
            tokens = vocabulary.filler.fresh(first_row + place, _RESPONSE_START, count if cut else count - 1)
        else:
            ids = encoded.get(place, record.response_token_ids)
            assert ids is not None
            ends = [i for i, token in enumerate(ids) if token in vocabulary.end_token_ids]
            if ends and ends[0] != len(ids) - 1:
                raise TraceError(
                    path, line, f"response_token_ids goes on behind end token {ids[ends[0]]} at place {ends[0]}"
                )
            cut = bool(ends) or (record.finish_reason == "length" and len(ids) > 0)
            tokens = np.asarray(ids, dtype=np.int32)
        if not cut and vocabulary.model is None:  # no end token is known: the list is taken as whole
            tokens = tokens if len(tokens) else vocabulary.filler.fresh(first_row + place, _RESPONSE_START, 1)
        elif not cut:
            if vocabulary.eos_token_id is None:
                raise TraceError(path, line, f"{vocabulary.model} names no end token to put behind the response")
            tokens = np.append(tokens, np.int32(vocabulary.eos_token_id))
        result.append(tokens)
    return result
