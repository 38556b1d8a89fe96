"""A trace's tokens as blocks with numbers, which is what the backends without a schedule read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vllm_sim.eviction.chains import Array, Requests
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import TokenisedTrace


def cache_requests(trace: TokenisedTrace, records: Sequence[Record], block_size: int) -> Requests:
    """Numbers the full blocks of every row, prompt and generated, in the order of first appearance.

    A block's number stands for its tokens alone; what comes before it is told apart when the chains are linked.

    Args:
        trace: The rows' tokens.
        records: The rows, for salts, workloads and turns.
        block_size: Tokens a block.
    """
    number_of: dict[bytes, int] = {}
    ids: list[int] = []
    begins = [0]
    for row in range(len(trace)):
        tokens = np.concatenate([trace.prompt(row), trace.response(row)])
        for start in range(0, len(tokens) - block_size + 1, block_size):
            ids.append(number_of.setdefault(tokens[start : start + block_size].tobytes(), len(number_of)))
        begins.append(len(ids))
    return Requests(
        ids=np.array(ids, dtype=np.int64),
        begins=np.array(begins, dtype=np.int64),
        prompt_tokens=np.diff(trace.prompt_offsets).astype(np.int64),
        output_tokens=np.diff(trace.response_offsets).astype(np.int64),
        category=categories(records),
        salt=_salts(records),
    )


def raw_requests(path: Path, trace: TokenisedTrace, records: Sequence[Record], block_size: int) -> Requests:
    """The hash ids of every row as they are, for raw blocks: outputs count for nothing.

    Args:
        path: The trace, for messages.
        trace: The rows' lines.
        records: The rows.
        block_size: Tokens a hash id stands for.

    Raises:
        TraceError: a row has no hash ids, or they stand for another number of tokens.
    """
    for row, record in enumerate(records):
        if record.hash_ids is None:
            raise TraceError(path, int(trace.lines[row]), "no hash_ids, which raw blocks need")
        if record.hash_block_size != block_size:
            reason = f"hash_block_size is {record.hash_block_size}, --block-size {block_size}; raw blocks need the same"
            raise TraceError(path, int(trace.lines[row]), reason)
    ids = [record.hash_ids or [] for record in records]
    return Requests(
        ids=np.array([name for row in ids for name in row], dtype=np.int64),
        begins=np.concatenate([[0], np.cumsum([len(row) for row in ids])]).astype(np.int64),
        prompt_tokens=np.array([record.input_length for record in records], dtype=np.int64),
        output_tokens=np.zeros(len(records), dtype=np.int64),
        category=categories(records),
        salt=_salts(records),
    )


def retokenised_tokens(trace: TokenisedTrace, records: Sequence[Record]) -> list[int | None]:
    """For each row how many tokens of its session's history are in its prompt as other tokens than were computed.

    The history is the previous row's prompt and generated tokens without the last one, which is never computed. Behind
    the first place where the prompt differs from it nothing of it can be reused: the rest of the history, as far as the
    prompt reaches, is counted. A tokenizer that encodes a generated text otherwise than the model did is the usual
    reason; a client that edits or cuts its history is another, and the tokens do not tell which.

    Returns:
        None where the generated tokens are not known (`output_length`, hash ids); 0 for a session's first row.
    """
    counts: list[int | None] = []
    last_row: dict[str | int, int] = {}
    for row, record in enumerate(records):
        before = last_row.get(record.session_id) if record.session_id is not None else None
        if record.session_id is not None:
            last_row[record.session_id] = row
        if record.hash_ids is not None or (before is not None and records[before].output_length is not None):
            counts.append(None)
            continue
        count = 0
        if before is not None:
            history = np.concatenate([trace.prompt(before), trace.response(before)[:-1]])
            prompt = trace.prompt(row)
            shared = min(len(history), len(prompt))
            other = np.flatnonzero(history[:shared] != prompt[:shared])
            count = shared - int(other[0]) if other.size else 0
        counts.append(count)
    return counts


def categories(records: Sequence[Record]) -> Array:
    """Workload and turn of each row as one small number, in the order of first appearance."""
    return _numbers([(record.workload, record.turn) for record in records])


def _salts(records: Sequence[Record]) -> Any:
    return _numbers([record.cache_salt for record in records], first=None)


def _numbers(values: Sequence[Any], first: Any = ...) -> Any:
    """Values as numbers in the order of first appearance; `first` has 0 whether it appears or not."""
    numbers: dict[Any, int] = {} if first is ... else {first: 0}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
