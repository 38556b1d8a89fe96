"""Statistics of a trace: sizes, sessions, and how much of its prefixes comes again.

Shares and gaps are those of the trace alone, a cache without bounds that serves one request after the other: what no
policy can exceed. Capacity, schedules and the rule about a prompt's last token are the replay's.

Held in memory, of a trace of hash ids: about 250 bytes an id, whatever the block size. Of one with texts or tokens:
8 bytes a block of the greatest common divisor of the block sizes, and about 60 bytes a block of the smallest.
"""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_sim.trace.blocks import PromptBlocks, hash_blocks, names_at, token_blocks
from vllm_sim.trace.files import OnBytes, iter_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised

BLOCK_SIZES = (16, 32, 64, 128, 256, 512)
QUANTILES = (50, 90, 99)
UNTAGGED = "(none)"
_MOST_ID = 0x7FFFFFFFFFFFFFFF
"""An id is any whole number; one that needs more than 63 bits keeps its lower ones."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """What is known of the rows besides their blocks; n is their number."""

    sessions: list[str | int | None]
    workloads: list[str]
    salts: NDArray[np.uint64]
    """[n], 0 for no cache salt; blocks under different salts are different blocks."""
    timestamps: NDArray[np.float64]
    """[n], milliseconds; NaN where there is none."""
    prompts: NDArray[np.int64]
    """[n], tokens."""
    outputs: NDArray[np.int64]
    """[n], tokens."""


@dataclass(frozen=True, slots=True)
class _Hashes:
    """The hash ids of a trace that has nothing else."""

    ids: NDArray[np.int64]
    offsets: NDArray[np.int64]
    unit_sizes: NDArray[np.int64]


def trace_stats(
    path: Path, model: str | Path | None, block_sizes: tuple[int, ...] | None = None, on_bytes: OnBytes | None = None
) -> dict[str, Any]:
    """Statistics as a JSON object.

    Args:
        path: A native trace.
        model: Folder of the model that has the tokenizer; not read if all records have hash ids, not needed if
            none has a text.
        block_sizes: In tokens; unless given those of BLOCK_SIZES that fit the trace's hash ids, and the ids' own.
        on_bytes: Called with the number of bytes of the trace that were read.

    Raises:
        TraceError: a line that is not a record or has no tokens.
        ValueError: a block size that does not fit the trace's hash ids.
    """
    rows, hashes = _read(path, on_bytes)
    sizes = _fitting_sizes(hashes, block_sizes)
    if hashes is None:
        trace = load_tokenised(path, model)
        rows = replace(rows, prompts=trace.prompt_lengths, outputs=trace.response_lengths)
        make = _token_block_maker(rows, trace, sizes)
    else:
        make = _hash_block_maker(rows, hashes)
    blocks = []
    shares: dict[int, dict[str, Any]] = {}
    for size in sizes:
        found = make(size)
        found = replace(found, names=found.names ^ rows.salts[found.rows])
        seen, gaps = _reuse(found)
        blocks.append({"block_size": size, **_share(found, seen), **_gaps(gaps, rows.timestamps)})
        shares[size] = _shares_by_workload(found, seen, rows.workloads)
    timed = rows.timestamps[~np.isnan(rows.timestamps)]
    return {
        "trace": path.name,
        **_sizes(rows, np.ones(len(rows.prompts), dtype=np.bool_)),
        "duration_ms": float(timed.max() - timed.min()) if len(timed) else None,
        "hash_block_sizes": None if hashes is None else sorted({int(size) for size in hashes.unit_sizes}),
        "distinct_hash_ids": None if hashes is None else len(np.unique(hashes.ids)),
        "blocks": blocks,
        "workloads": {
            tag: _sizes(rows, np.array([workload == tag for workload in rows.workloads]))
            | {"seen_before_by_block_size": {str(size): shares[size].get(tag) for size in sizes}}
            for tag in sorted(set(rows.workloads))
        },
    }


def _read(path: Path, on_bytes: OnBytes | None) -> tuple[_Rows, _Hashes | None]:
    sessions: list[str | int | None] = []
    workloads: list[str] = []
    salts, timestamps, prompts, outputs, units, counts = [], [], [], [], [], []
    ids = array("q")
    only_hashes = True
    for _, record in iter_records(path, on_bytes):
        sessions.append(record.session_id)
        workloads.append(UNTAGGED if record.workload is None else record.workload)
        salts.append(_salt_number(record.cache_salt))
        timestamps.append(np.nan if record.timestamp is None else record.timestamp)
        only_hashes = only_hashes and _has_only_hashes(record)
        if only_hashes:
            assert record.hash_ids is not None
            prompts.append(record.input_length or 0)
            outputs.append(record.output_length or 0)
            units.append(record.hash_block_size or 0)
            counts.append(len(record.hash_ids))
            ids.extend(number & _MOST_ID for number in record.hash_ids)
    numbers = np.array(prompts, dtype=np.int64), np.array(outputs, dtype=np.int64)
    salt_array, time_array = np.array(salts, dtype=np.uint64), np.array(timestamps, dtype=np.float64)
    rows = _Rows(sessions, workloads, salt_array, time_array, *numbers)
    if not only_hashes:
        return rows, None
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return rows, _Hashes(np.frombuffer(ids, np.int64), offsets, np.array(units, dtype=np.int64))


def _has_only_hashes(record: Record) -> bool:
    return record.hash_ids is not None and record.output_length is not None


def _salt_number(salt: str | None) -> int:
    return 0 if salt is None else int.from_bytes(hashlib.blake2b(salt.encode(), digest_size=8).digest(), "big")


def _fitting_sizes(hashes: _Hashes | None, wanted: tuple[int, ...] | None) -> list[int]:
    for size in wanted or ():
        if size < 1:
            raise ValueError(f"block size {size}; allowed: 1 token or more")
    if hashes is None:
        return sorted(set(wanted or BLOCK_SIZES))
    units = {int(unit) for unit in hashes.unit_sizes}

    def fits(size: int) -> bool:
        return all(unit % size == 0 or size % unit == 0 for unit in units)

    for size in wanted or ():
        if not fits(size):
            shown = ", ".join(map(str, sorted(units)))
            raise ValueError(f"block size {size}; allowed: divisors and multiples of the hash ids' {shown} tokens")
    return sorted(set(wanted) if wanted else {size for size in (*BLOCK_SIZES, *units) if fits(size)})


def _hash_block_maker(rows: _Rows, hashes: _Hashes) -> Callable[[int], PromptBlocks]:
    """A function from a block size to the blocks of that size."""
    rows_of_ids = (hashes.ids[begin:end] for begin, end in pairwise(hashes.offsets.tolist()))
    names, _ = names_at(rows_of_ids, 1)
    return lambda size: hash_blocks(names, hashes.offsets, hashes.unit_sizes, rows.prompts, rows.outputs, size)


def _token_block_maker(rows: _Rows, trace: TokenisedTrace, sizes: list[int]) -> Callable[[int], PromptBlocks]:
    """A function from a block size to the blocks of that size."""
    step = math.gcd(*sizes)
    whole = (np.concatenate([trace.prompt(row), trace.response(row)]) for row in range(len(trace)))
    names, offsets = names_at(whole, step)
    return lambda size: token_blocks(names, offsets, step, rows.prompts, rows.outputs, size)


class _Pairs(NamedTuple):
    """Uses of a block that follow each other, [k] each."""

    earlier: NDArray[np.int64]
    """The request."""
    later: NDArray[np.int64]
    counts: NDArray[np.int64]
    """Blocks that they have so."""


def _reuse(blocks: PromptBlocks) -> tuple[NDArray[np.bool_], _Pairs]:
    """(which blocks were there before, the requests that use a block one after the other)."""
    order = np.argsort(blocks.names, kind="stable")
    again = blocks.names[order][1:] == blocks.names[order][:-1]
    later = order[1:][again]
    seen = np.zeros(len(order), dtype=np.bool_)
    seen[later] = True
    return seen, _Pairs(blocks.rows[order[:-1][again]], blocks.rows[later], blocks.counts[later])


def _share(blocks: PromptBlocks, seen: NDArray[np.bool_]) -> dict[str, Any]:
    prompt_blocks = int(blocks.counts[blocks.in_prompt].sum())
    again = int(blocks.counts[seen & blocks.in_prompt].sum())
    return {
        "prompt_blocks": prompt_blocks,
        "seen_before_blocks": again,
        "seen_before_share": again / prompt_blocks if prompt_blocks else None,
        "working_set_blocks": int(blocks.counts[~seen].sum()),
    }


def _gaps(pairs: _Pairs, timestamps: NDArray[np.float64]) -> dict[str, Any]:
    """Distance between two uses of a block, in requests and, where both have a time, in milliseconds."""
    times = timestamps[pairs.later] - timestamps[pairs.earlier]
    known = ~np.isnan(times)
    return {
        "reuse_gap_requests": _quantiles(pairs.later - pairs.earlier, pairs.counts),
        "reuse_gap_ms": _quantiles(times[known], pairs.counts[known]),
    }


def _shares_by_workload(blocks: PromptBlocks, seen: NDArray[np.bool_], workloads: list[str]) -> dict[str, float]:
    tags = sorted(set(workloads))
    number = {tag: i for i, tag in enumerate(tags)}
    of_row = np.array([number[tag] for tag in workloads])[blocks.rows[blocks.in_prompt]]
    counts = blocks.counts[blocks.in_prompt]
    total = np.bincount(of_row, weights=counts, minlength=len(tags))
    again = np.bincount(of_row, weights=counts * seen[blocks.in_prompt], minlength=len(tags))
    return {tag: float(again[i] / total[i]) for tag, i in number.items() if total[i]}


def _sizes(rows: _Rows, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    in_sessions = Counter(rows.sessions[row] for row in np.flatnonzero(chosen) if rows.sessions[row] is not None)
    return {
        "requests": int(chosen.sum()),
        "sessions": len(in_sessions),
        "requests_per_session": _quantiles(np.array(list(in_sessions.values()))),
        "prompt_tokens": int(rows.prompts[chosen].sum()),
        "output_tokens": int(rows.outputs[chosen].sum()),
        "prompt_length": _quantiles(rows.prompts[chosen]),
        "output_length": _quantiles(rows.outputs[chosen]),
    }


def _quantiles(values: NDArray[Any], counts: NDArray[np.int64] | None = None) -> dict[str, float] | None:
    """Quantiles that are values of the data (numpy's `inverted_cdf`), and the largest; None if there are none.

    Args:
        values: The data.
        counts: How often each is there; None: once.
    """
    if not len(values):
        return None
    order = np.argsort(values)
    ends = np.cumsum(np.ones_like(order) if counts is None else counts[order])
    places = np.ceil(ends[-1] * np.array([*QUANTILES, 100]) / 100) - 1
    found = values[order][np.searchsorted(ends, places, side="right")]
    return {name: value.item() for name, value in zip([*(f"p{q}" for q in QUANTILES), "max"], found, strict=True)}
