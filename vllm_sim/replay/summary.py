"""The summary row, and the rows of sessions. Deterministic byte for byte, as the rows that they add up.

The first --warmup of the rows are left out of everything but requests, rejected_requests, sessions, slots_*, and what
the backends count themselves. A summary row has, beside what ran (`head`) and the engine's set-up (virtual.py):

    requests, rejected_requests, warmup_requests, sessions
    prompt_tokens, output_tokens, hit_tokens, hit_generated_tokens, miss_*_tokens, retokenised_tokens   as in rows.py
    token_hit_rate            hit_tokens / prompt_tokens
    block_hit_rate            hit blocks / full prompt blocks (raw: all blocks)
    request_hit_rate          mean over requests of hit_tokens / prompt_tokens
    by_workload, by_turn, by_tenant   the same rates and counts of each
    by_session                percentiles of the sessions' token hit rates; sessions.jsonl has a row for each
    working_set_blocks        distinct blocks that were ever cached
    evicted_blocks            blocks whose hash was removed so that they could be used again
    orphan_blocks             most cached blocks at any time whose parent's hash is in no block
    generated_blocks          "never hit": the trace has hash ids, whose generated tokens are fresh; else not there
    slots_allocated           tokens that fit into the blocks taken beside the hits
    slots_filled              tokens computed into them at a first try: prompt - hits + generated - 1 of each request
    engine: preemptions, readmission_prompt_tokens, readmission_hit_tokens
    engine: output_tokens_per_s   generated tokens a second, from the first arrival to the last end
    engine: ttft_ms_*         first token - arrival;  e2e_ms_*: end - arrival
            tpot_ms_*         (end - first token) / (generated tokens - 1), where there are two or more
            each as p50, p90, p99 over requests, in virtual milliseconds
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vllm_sim.replay.rows import MISSES, Outcome, Row
from vllm_sim.replay.settings import Settings
from vllm_sim.trace.tokens import TokenisedTrace


def summarise(
    path: Path, trace: TokenisedTrace, outcome: Outcome, settings: Settings, retokenised: Sequence[int | None] | None
) -> Row:
    """The summary row of a run.

    Args:
        path: The trace.
        trace: Its tokens.
        outcome: What the backend gave; its rows get the retokenised tokens.
        settings: How it ran.
        retokenised: `retokenised_tokens` of the trace, None for raw blocks.
    """
    if retokenised is not None:
        for row, tokens in zip(outcome.rows, retokenised, strict=True):
            row["retokenised_tokens"] = tokens
    counts = summary_row(outcome.rows, settings.block_size, settings.warmup)
    return head(path, trace, settings) | counts | outcome.tail


def head(path: Path, trace: TokenisedTrace, settings: Settings) -> Row:
    """The fields of a summary row that say what ran."""
    return {
        "trace": path.name,
        "trace_sha256": trace.sha256,
        "backend": settings.backend,
        "policy": settings.policy,
        "policy_params": settings.policy_params,
        "capacity_blocks": settings.capacity_blocks,
        "capacity_tokens": settings.capacity_blocks and settings.capacity_blocks * settings.block_size,
        "block_size": settings.block_size,
        "raw_blocks": settings.raw_blocks,
        "seed": settings.seed,
    }


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
