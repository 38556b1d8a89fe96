"""The rows of requests. Deterministic byte for byte: no wall time, no host.

Every prompt token has one fate at the request's first admission, and the five add up to prompt_tokens:

    hit_tokens                found cached
    miss_cold_tokens          in a block that was never cached before
    miss_evicted_tokens       in a block that was cached before, and is not any more
    miss_partial_tokens       the tail that fills no block
    miss_last_tokens          the block that holds the last token of a prompt of k x block size: vLLM always computes it

(Raw blocks: the tail is a block; partial is a tail without an id, and last is 0.) A row of requests.jsonl has also:

    row, id, workload, session_id, turn, tenant   as in the trace; row counts from 0
    status                    ok, or rejected: needs more blocks than there are, or is longer than max_model_len
    prompt_tokens, output_tokens
    hit_generated_tokens      of the hits, those in blocks with a generated token
    evicted_by                row whose allocation evicted the first block that was missed though it had been cached
    blocks_allocated          blocks taken beside the hits, again after each preemption
    retokenised_tokens        history that came back as other tokens (requests.py), null: unknown
    engine: preemptions; readmission_prompt_tokens (prompt tokens times preemptions), readmission_hit_tokens (found
    cached on returns, generated tokens too)
    engine: arrival_ms, first_scheduled_ms, first_token_ms, end_ms   virtual milliseconds from the start; rejected: null

With --no-attribution the engine's rows have none of the fates, evicted_by and blocks_allocated.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from vllm_sim.trace.files import open_output
from vllm_sim.trace.record import Record

Row = dict[str, Any]

MISSES = ("miss_cold_tokens", "miss_evicted_tokens", "miss_partial_tokens", "miss_last_tokens")
PARTIAL = "requests.partial.jsonl"
TIMES = ("arrival_ms", "first_scheduled_ms", "first_token_ms", "end_ms")


class Found(NamedTuple):
    """What a request found in the cache at its first admission, in blocks."""

    hit: int
    hit_generated: int
    cold: int
    evicted: int
    evicted_by: int | None
    """Row whose allocation evicted the first block that was missed though it had been cached before."""
    allocated: int


class Outcome(NamedTuple):
    """What a backend gives."""

    rows: list[Row]
    tail: Row
    """Fields of the summary that the rows do not tell."""
    files: dict[str, list[Row]]
    """More files of the run, by name."""


def request_row(
    row: int,
    record: Record,
    prompt_tokens: int,
    output_tokens: int,
    block_size: int,
    rejected: bool,
    found: Found | None,
    raw_blocks: bool = False,
) -> Row:
    """The fields that every backend knows of a request; those of the cache are left out where `found` is None."""
    values: Row = {
        "row": row,
        "id": record.id,
        "workload": record.workload,
        "session_id": record.session_id,
        "turn": record.turn,
        "tenant": record.tenant,
        "status": "rejected" if rejected else "ok",
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
    }
    if found is None:
        return values
    fates = _raw_fates if raw_blocks else _fates
    return (
        values
        | fates(found, prompt_tokens, block_size)
        | {
            "evicted_by": found.evicted_by,
            "blocks_allocated": found.allocated,
        }
    )


def _fates(found: Found, prompt_tokens: int, block_size: int) -> Row:
    partial = prompt_tokens % block_size
    return {
        "hit_tokens": found.hit * block_size,
        "hit_generated_tokens": found.hit_generated * block_size,
        "miss_cold_tokens": found.cold * block_size,
        "miss_evicted_tokens": found.evicted * block_size,
        "miss_partial_tokens": partial,
        "miss_last_tokens": 0 if partial else block_size,
    }


def _raw_fates(found: Found, prompt_tokens: int, block_size: int) -> Row:
    """The last block of a row may be its partial tail, which counts as many tokens as it has."""
    blocks = (found.hit, found.hit + found.evicted, found.hit + found.evicted + found.cold)
    hit, seen, named = (min(count * block_size, prompt_tokens) for count in blocks)
    return {
        "hit_tokens": hit,
        "hit_generated_tokens": 0,
        "miss_cold_tokens": named - seen,
        "miss_evicted_tokens": seen - hit,
        "miss_partial_tokens": prompt_tokens - named,
        "miss_last_tokens": 0,
    }


def engine_fields(served: Any, prompt_tokens: int) -> Row:
    """The fields that only the engine knows, from what its driver says (`engine.driver.Served`)."""
    found = served.admission
    values: Row = {"preemptions": served.preemptions}
    if found is not None:
        values["readmission_prompt_tokens"] = prompt_tokens * served.preemptions
        values["readmission_hit_tokens"] = found.readmission_hit_tokens
    for name in TIMES:
        values[name] = round(getattr(served, name), 3) if name == "arrival_ms" or not served.rejected else None
    return values


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON lines, whole or not at all."""
    with open_output(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def generated_blocks(records: Iterable[Record]) -> Row:
    """What a summary says of a trace with hash ids, whose generated tokens are fresh: their blocks are never hit."""
    return {"generated_blocks": "never hit"} if any(record.hash_ids is not None for record in records) else {}
