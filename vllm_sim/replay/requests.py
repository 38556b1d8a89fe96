"""A trace's tokens as blocks with numbers, which is what the backends without a schedule read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vllm_sim.block_rules import full_blocks
from vllm_sim.eviction.chains import Array, Floats, Requests
from vllm_sim.trace.columns import column
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import TokenisedTrace


def cache_requests(trace: TokenisedTrace, records: Sequence[Record], block_size: int) -> Requests:
    """Names the full blocks of every row by numbers.

    A block's number stands for its tokens alone, in the order of first appearance; what comes before it is kept apart
    when the chains are linked. Hash ids whose size the block size divides need no tokens: each of an id's blocks has
    the number -1 - id, since every two neighbouring tokens name the id (synthetic.py). Blocks with a made token, which
    are like no other, have a number of their own in the prompt, and none after it.

    Args:
        trace: The rows' tokens.
        records: The rows, for salts, workloads and turns.
        block_size: Tokens a block.
    """
    number_of: dict[bytes, int] = {}
    fresh = -2 - int(trace.hash_ids.max(initial=0))
    by_ids = _names_blocks_by_ids(trace.hash_block_sizes, block_size)
    rows: list[Array] = []
    for row in range(len(trace)):
        if trace.hash_block_sizes[row] and by_ids:
            per_id = int(trace.hash_block_sizes[row]) // block_size
            blocks = full_blocks(int(trace.prompt_lengths[row]), block_size)
            names = np.repeat(-1 - trace.ids(row), per_id)[:blocks]
            missing = blocks - len(names)
            rows.append(np.concatenate([names, fresh - np.arange(missing)]))
            fresh -= missing
            continue
        tokens = trace.prompt(row)
        if not trace.is_made(row) or block_size == 1:  # one token alone may be another stream's as well
            tokens = np.concatenate([tokens, trace.response(row)])
        places = range(0, len(tokens) - block_size + 1, block_size)
        numbers = [number_of.setdefault(tokens[i : i + block_size].tobytes(), len(number_of)) for i in places]
        rows.append(np.array(numbers, dtype=np.int64))
    return Requests(
        ids=np.concatenate(rows),
        begins=np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64),
        prompt_tokens=np.array(trace.prompt_lengths),
        output_tokens=np.array(trace.response_lengths),
        category=categories(records),
        salt=column(records, "salt"),
        arrival_ms=arrivals_ms(records),
        hints=hints(records),
    )


def _names_blocks_by_ids(sizes: NDArray[np.int64], block_size: int) -> bool:
    """Whether all blocks of hash ids may be named by them: their tokens, a pair over and over, name the ids too.

    A block of one token holds half a pair; an odd one may begin with either half, where the ids' sizes differ.
    """
    units = np.unique(sizes[sizes > 0])
    return block_size > 1 and not (units % block_size).any() and (block_size % 2 == 0 or len(units) == 1)


def raw_requests(path: Path, trace: TokenisedTrace, records: Sequence[Record], block_size: int) -> Requests:
    """The hash ids of every row as they are, for raw blocks: outputs count for nothing.

    Args:
        path: The trace, for messages.
        trace: The rows' ids and lines.
        records: The rows.
        block_size: Tokens a hash id stands for.

    Raises:
        TraceError: a row has no hash ids, or they stand for another number of tokens.
    """
    for row, size in enumerate(trace.hash_block_sizes.tolist()):
        if not size:
            raise TraceError(path, int(trace.lines[row]), "no hash_ids, which raw blocks need")
        if size != block_size:
            reason = f"hash_block_size is {size}, --block-size {block_size}; raw blocks need the same"
            raise TraceError(path, int(trace.lines[row]), reason)
    return Requests(
        ids=np.array(trace.hash_ids),
        begins=np.array(trace.hash_offsets),
        prompt_tokens=np.array(trace.prompt_lengths),
        output_tokens=np.zeros(len(trace), dtype=np.int64),
        category=categories(records),
        salt=column(records, "salt"),
        arrival_ms=arrivals_ms(records),
        hints=hints(records),
    )


def retokenised_tokens(trace: TokenisedTrace, records: Sequence[Record]) -> list[int | None]:
    """For each row how many tokens of its session's history are in its prompt as other tokens than were computed.

    The history is the previous row's prompt and generated tokens without the last one, which is never computed. After
    the first place where the prompt differs from it nothing of it can be reused: the rest of the history, as far as the
    prompt reaches, is counted. A tokenizer that encodes a generated text otherwise than the model did is the usual
    reason; a client that edits or cuts its history is another, and the tokens do not tell which.

    Returns:
        None where the generated tokens are not known (`output_length`, hash ids); 0 for a session's first row.
    """
    has_ids, has_length = column(records, "has_ids"), column(records, "has_length")
    if has_ids.all():
        return [None] * len(records)
    counts: list[int | None] = []
    last_row: dict[int, int] = {}
    for row, session in enumerate(column(records, "session_id").tolist()):
        before = last_row.get(session) if session >= 0 else None
        last_row[session] = row
        if has_ids[row] or (before is not None and has_length[before]):
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
    return column(records, "category")


def arrivals_ms(records: Sequence[Record]) -> Floats:
    """When each row arrives; NaN where it does not say so."""
    return column(records, "arrival_ms")


def hints(records: Sequence[Record]) -> Floats:
    """What the clients of the rows say; [n, 4], the fields of Hints.

    Raises:
        ValueError: a row's hint is out of range; names its place among the rows.
    """
    return column(records, "hints")
