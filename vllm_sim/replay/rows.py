"""The rows of a run: one a request, and one summary. Deterministic byte for byte: no wall time, no host.

Every prompt token has one fate: hit; last (the block that holds the last prompt token of a prompt of k x block size,
which vLLM always computes); partial (the tail that fills no block); evicted (in a block that was cached before); cold.
After a preemption the blocks that a request takes again are in slots_allocated once more, and what it computes again is
not in slots_filled; readmission_hit_tokens may hold generated tokens too.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

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


def rates(rows: Sequence[Row], block_size: int) -> Row:
    """Hit rates under the three definitions, and the tokens they are made of."""
    prompt = sum(row["prompt_tokens"] for row in rows)
    hit = sum(row["hit_tokens"] for row in rows)
    # Rounded up for the partial tail of raw blocks; under vLLM's rules both are whole blocks.
    hit_blocks = sum(-(-row["hit_tokens"] // block_size) for row in rows)
    full_blocks = sum(-(-(row["prompt_tokens"] - row["miss_partial_tokens"]) // block_size) for row in rows)
    ratios = [row["hit_tokens"] / row["prompt_tokens"] for row in rows]
    return {
        "requests": len(rows),
        "prompt_tokens": prompt,
        "output_tokens": sum(row["output_tokens"] for row in rows),
        "hit_tokens": hit,
        "hit_generated_tokens": sum(row["hit_generated_tokens"] for row in rows),
        "token_hit_rate": _share(hit, prompt),
        "block_hit_rate": _share(hit_blocks, full_blocks),
        "request_hit_rate": _share(sum(ratios), len(rows)),
    }


def summary_row(rows: Sequence[Row], block_size: int, warmup: float) -> Row:
    """What the requests add up to; the first `warmup` of them count for nothing but the totals of the run."""
    skipped = int(len(rows) * warmup)
    counted = rows[skipped:]
    result: Row = {
        "requests": len(rows),
        "rejected_requests": sum(row["status"] == "rejected" for row in rows),
        "warmup_requests": skipped,
        "sessions": len({row["session_id"] for row in rows if row["session_id"] is not None}),
    }
    if rows and "hit_tokens" in rows[0]:
        result |= {name: value for name, value in rates(counted, block_size).items() if name != "requests"}
        result |= {name: sum(row[name] for row in counted) for name in MISSES}
        result["by_workload"] = _by(counted, block_size, lambda row: row["workload"])
        result["by_turn"] = _by(counted, block_size, lambda row: row["turn"])
        result["by_tenant"] = _by(counted, block_size, lambda row: row["tenant"])
        result["by_session"] = _distribution(session_rows(rows, block_size, warmup))
        served = [row for row in rows if row["status"] == "ok"]
        result["slots_allocated"] = sum(row["blocks_allocated"] for row in served) * block_size
        computed = (row["prompt_tokens"] + max(row["output_tokens"], 1) - 1 - row["hit_tokens"] for row in served)
        result["slots_filled"] = sum(computed)
    retokenised = [row["retokenised_tokens"] for row in counted if row.get("retokenised_tokens") is not None]
    result["retokenised_tokens"] = sum(retokenised) if retokenised else None
    for name in ("preemptions", "readmission_prompt_tokens", "readmission_hit_tokens"):
        if rows and name in rows[0]:
            result[name] = sum(row[name] for row in counted)
    return result | _times([row for row in counted if row["status"] == "ok" and "end_ms" in row])


def session_rows(rows: Sequence[Row], block_size: int, warmup: float) -> list[Row]:
    """Rates of each session, in the order of their first rows; none where the hits are not known."""
    sessions: dict[Any, list[Row]] = {}
    for row in rows[int(len(rows) * warmup) :]:
        if row["session_id"] is not None and "hit_tokens" in row:
            sessions.setdefault(row["session_id"], []).append(row)
    return [
        {"session_id": name, "workload": found[0]["workload"], "tenant": found[0]["tenant"]} | rates(found, block_size)
        for name, found in sessions.items()
    ]


def _distribution(sessions: Sequence[Row]) -> Row:
    """How the token hit rates of sessions are spread; the sessions themselves are in sessions.jsonl."""
    values = [row["token_hit_rate"] for row in sessions]
    return {
        f"token_hit_rate_p{share}": round(float(np.percentile(values, share)), 6) if values else None
        for share in (10, 50, 90)
    }


def _by(rows: Sequence[Row], block_size: int, key: Callable[[Row], Any]) -> dict[str, Row]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if key(row) is not None:
            groups.setdefault(str(key(row)), []).append(row)
    names = sorted(groups, key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    return {name: rates(groups[name], block_size) for name in names}


def _times(rows: Sequence[Row]) -> Row:
    """Latencies in milliseconds of virtual time, and the generated tokens a second."""
    if not rows:
        return {}
    spans = {
        "ttft": [row["first_token_ms"] - row["arrival_ms"] for row in rows],
        "tpot": [
            (row["end_ms"] - row["first_token_ms"]) / (row["output_tokens"] - 1)
            for row in rows
            if row["output_tokens"] > 1
        ],
        "e2e": [row["end_ms"] - row["arrival_ms"] for row in rows],
    }
    total_ms = max(row["end_ms"] for row in rows) - min(row["arrival_ms"] for row in rows)
    tokens = sum(row["output_tokens"] for row in rows)
    result: Row = {"output_tokens_per_s": round(tokens / total_ms * 1000, 3) if total_ms > 0 else None}
    for name, values in spans.items():
        for share in (50, 90, 99):
            result[f"{name}_ms_p{share}"] = round(float(np.percentile(values, share)), 3) if values else None
    return result


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes rows as JSON lines, whole or not at all."""
    with open_output(path) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
