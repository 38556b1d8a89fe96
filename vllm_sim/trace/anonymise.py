"""Turns a trace into hash ids, so that it can be shared without being shown.

Every full block of a prompt becomes a keyed BLAKE2b hash over the block before it and its own tokens, of 63 bits: two
prompts share ids exactly as far as they share full blocks, at this block size and at its multiples. The tail of a
prompt that fills no block has no id. Kept: lengths, times, turns, tags of the workload, priority, hints, finish reason,
limit of tokens. Ids of requests, sessions and tenants and the cache salt become hashes. Everything else is left out:
texts, tools, template arguments, keys that the format does not know.

Not kept, since ids of a prompt say nothing of it: that an answer comes back in the history of the next turn. Its blocks
are new when the next prompt brings them for the first time.

The key is made from a salt. Without one it is random and thrown away, and nobody can find a text by hashing guesses;
with the same salt several files get the same ids for the same blocks.
"""

import hashlib
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllm_sim.trace.files import OnBytes, iter_records, write_records
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import load_tokenised

DEFAULT_BLOCK_SIZE_TOKENS = 16
_NAME_BYTES = 8


class _Hasher:
    """Keyed hashes of blocks and of names."""

    def __init__(self, salt: str | None):
        secret = secrets.token_bytes(32) if salt is None else salt.encode()
        self._key = hashlib.blake2b(secret, digest_size=32).digest()

    def _digest(self, data: bytes, purpose: bytes, size: int) -> bytes:
        return hashlib.blake2b(data, key=self._key, person=purpose, digest_size=size).digest()

    def name(self, value: str | int | None, purpose: bytes) -> str | None:
        """A short name for a name; the same for the same."""
        if value is None:
            return None
        return self._digest(repr(value).encode(), purpose, _NAME_BYTES).hex()

    def chain(self, blocks: Iterator[bytes]) -> list[int]:
        """An id for each block, that depends on all the blocks before it."""
        parent, ids = b"", []
        for block in blocks:
            parent = self._digest(parent + block, b"block", 16)
            ids.append(int.from_bytes(parent[:8], "big") >> 1)
        return ids


def anonymise(
    source: Path,
    out: Path,
    model: str | Path | None,
    block_size: int | None = None,
    salt: str | None = None,
    on_bytes: OnBytes | None = None,
) -> int:
    """Writes an anonymous copy of a native trace; returns the number of requests.

    Args:
        source: A native trace.
        out: The trace to write.
        model: Folder of the model whose tokenizer and chat template the block boundaries follow; not read if all
            records have hash ids, and not needed if none has a text.
        block_size: Tokens a hash id stands for, 16 unless given; a record of hash ids keeps its own.
        salt: The secret; random unless given.
        on_bytes: Called with the number of bytes of the source that were read.

    Raises:
        TraceError: a line that is not a record, has no tokens, or has ids of another block size than the one given.
    """
    if block_size is not None and block_size < 1:
        raise ValueError(f"block size {block_size}; allowed: 1 token or more")
    return write_records(out, _anonymous(source, model, block_size, _Hasher(salt), on_bytes))


def _anonymous(
    source: Path, model: str | Path | None, block_size: int | None, hasher: _Hasher, on_bytes: OnBytes | None
) -> Iterator[Record]:
    tokenised = None
    for row, (line, record) in enumerate(iter_records(source, on_bytes)):
        if record.hash_ids is not None and record.output_length is not None:
            prompt_length, output_length = record.input_length, record.output_length
        else:
            tokenised = tokenised or load_tokenised(source, model)
            prompt_length, output_length = int(tokenised.prompt_lengths[row]), int(tokenised.response_lengths[row])
        if record.hash_ids is None:
            assert tokenised is not None
            size = block_size or DEFAULT_BLOCK_SIZE_TOKENS
            ids = hasher.chain(_token_blocks(tokenised.prompt(row), size))
        else:
            assert record.hash_block_size is not None
            size = record.hash_block_size
            if block_size not in (None, size):
                reason = f"its ids stand for {size} tokens, not for {block_size}; allowed: no block size, or {size}"
                raise TraceError(source, line, reason)
            ids = hasher.chain(str(block).encode() + b" " for block in record.hash_ids)
        yield Record(
            hash_ids=ids,
            input_length=prompt_length,
            hash_block_size=size,
            output_length=output_length,
            id=hasher.name(record.id, b"id"),
            timestamp=record.timestamp,
            session_id=hasher.name(record.session_id, b"session"),
            turn=record.turn,
            workload=record.workload,
            think_time_ms=record.think_time_ms,
            max_tokens=record.max_tokens,
            finish_reason=record.finish_reason,
            cache_salt=hasher.name(record.cache_salt, b"salt"),
            priority=record.priority,
            tenant=hasher.name(record.tenant, b"tenant"),
            session_end=record.session_end,
            next_turn_ms=record.next_turn_ms,
            retention_priority=record.retention_priority,
            retention_ms=record.retention_ms,
        )


def _token_blocks(tokens: NDArray[np.int32], size: int) -> Iterator[bytes]:
    data = np.ascontiguousarray(tokens, dtype="<i4").tobytes()
    width = 4 * size
    return (data[i : i + width] for i in range(0, len(data) - width + 1, width))
