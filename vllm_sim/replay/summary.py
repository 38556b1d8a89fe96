"""What the requests of a run add up to: rates of a run, of its parts, of its sessions, and latencies.

All from arrays, so that a sweep makes no row of a request. With sums over the requests that count, B tokens a block:

    token_hit_rate    sum(hit) / sum(prompt)
    block_hit_rate    sum(ceil(hit / B)) / sum(ceil((prompt - partial) / B))
    request_hit_rate  sum(hit / prompt) / requests

The first floor(warmup x n) of n requests do not count. Other fields: rows.py (Rates, RunSummary).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vllm_sim.block_rules import computed_tokens
from vllm_sim.replay.breakdown import Array
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Fleet, Label, Mask, Outcome
from vllm_sim.replay.rows import TIER_MISSES, Latencies, Rates, ReplicaResult, RunSummary, SessionResult
from vllm_sim.trace.columns import column

SHARES = (50, 90, 99)
"""Percentiles of latencies."""


def rates(outcome: Outcome, where: Mask | None = None) -> Rates:
    """The rates of a run, or of those of its requests that `where` ([n]) chooses.

    Raises:
        ValueError: the run has no attribution.
    """
    codes = np.zeros(outcome.prompt_tokens.size, np.int64) if where is None else np.where(where, 0, -1)
    return rates_by(outcome, codes, 1)[0]


def rates_by(outcome: Outcome, codes: Array, groups: int) -> list[Rates]:
    """The rates of groups of requests.

    Args:
        outcome: the run.
        codes: [n], the group of each request, -1: none.
        groups: how many there are.

    Raises:
        ValueError: the run has no attribution.
    """
    parts = outcome.parts
    if parts is None:
        raise ValueError("a run without attribution has no rates; allowed: one with")
    if not groups:
        return []
    chosen: Any = codes >= 0
    if chosen.all():
        chosen = slice(None)
    codes, size = codes[chosen], outcome.block_size
    prompt, hit = outcome.prompt_tokens[chosen], parts.hit[chosen]

    def total(values: Any) -> list[float]:
        return np.bincount(codes, values, minlength=groups).tolist()

    def count(values: Any) -> list[float]:
        """The same of whole numbers, whose sums are exact in any order."""
        return [int(values.sum())] if groups == 1 else total(values)

    columns = zip(
        np.bincount(codes, minlength=groups).tolist(),
        count(prompt),
        count(outcome.output_tokens[chosen]),
        count(hit),
        count(parts.hit_generated[chosen]),
        # Rounded up for the partial tail of raw blocks; under vLLM's rules both are whole blocks.
        count(-(-hit // size)),
        count(-(-(prompt - parts.partial[chosen]) // size)),
        total(hit / np.maximum(prompt, 1)),
        strict=True,
    )
    return [
        Rates(
            requests=requests,
            prompt_tokens=int(prompts),
            output_tokens=int(outputs),
            hit_tokens=int(hits),
            hit_generated_tokens=int(generated),
            token_hit_rate=_share(hits, prompts),
            block_hit_rate=_share(hit_blocks, blocks),
            request_hit_rate=_share(ratios, requests),
        )
        for requests, prompts, outputs, hits, generated, hit_blocks, blocks, ratios in columns
    ]


def session_results(outcome: Outcome, warmup: float) -> list[SessionResult]:
    """The rows of sessions.jsonl, in the order of their first requests; none where the hits are not known."""
    if outcome.parts is None:
        return []
    session = outcome.labels.session
    if not session.values:
        return []
    codes = session.codes.copy()
    codes[: int(codes.size * warmup)] = -1
    found = rates_by(outcome, codes, len(session.values))
    numbers, rows = np.unique(codes, return_index=True)
    firsts = sorted((int(row), int(number)) for number, row in zip(numbers, rows, strict=True) if number >= 0)
    return [
        SessionResult(
            session_id=session.values[number],
            workload=outcome.records[row].workload,
            tenant=outcome.records[row].tenant,
            **{name: getattr(found[number], name) for name in Rates.__struct_fields__},
        )
        for row, number in firsts
    ]


def summarise(config: RunConfig, trace: str, trace_sha256: str, outcome: Outcome, **more: Any) -> RunSummary:
    """The summary of a run.

    Args:
        config: what ran.
        trace: the trace's file name.
        trace_sha256: of its file.
        outcome: what came of it.
        more: fields that the backend alone knows.
    """
    count = outcome.prompt_tokens.size
    skipped = int(count * config.warmup)
    counted = np.arange(count) >= skipped
    values: dict[str, Any] = {
        "capacity_tokens": config.blocks and config.blocks * config.block_size,
        "requests": count,
        "rejected_requests": int(outcome.rejected.sum()),
        "warmup_requests": skipped,
        "sessions": len(outcome.labels.session.values),
        "retokenised_tokens": _sum_known(outcome.retokenised, skipped),
    }
    if column(outcome.records, "has_ids").any() and not config.raw_blocks:
        values["generated_blocks"] = "never hit"
    if outcome.totals is not None:
        values |= {name: value for name, value in outcome.totals._asdict().items() if value is not None}
    if outcome.groups is not None:
        values |= {
            "capacity_tokens": config.blocks and outcome.groups.capacity_tokens,
            "cache_groups": list(outcome.groups.groups),
            "hit_alignment_tokens": outcome.groups.hit_alignment_tokens,
        }
    if outcome.traffic is not None:
        found = outcome.traffic._asdict()
        values |= {f"tier_{name}": value for name, value in found.items() if value is not None}
    if outcome.parts is not None:
        values |= _cache_values(outcome, skipped)
        sessions = [row.token_hit_rate for row in session_results(outcome, config.warmup)]
        values["by_session"] = {f"token_hit_rate_p{share}": _percentile(sessions, share, 6) for share in (10, 50, 90)}
        if outcome.fleet is not None:
            values["by_replica"] = _by_replica(outcome, outcome.fleet, counted)
    if outcome.schedule is not None:
        values["preemptions"] = int(outcome.schedule.preemptions[counted].sum())
        if outcome.parts is not None:
            again = outcome.prompt_tokens * outcome.schedule.preemptions
            values["readmission_prompt_tokens"] = int(again[counted].sum())
            values["readmission_hit_tokens"] = int(outcome.schedule.readmission_hit_tokens[counted].sum())
        values |= latencies(outcome, counted)
        if outcome.parts is not None:
            was_hit = outcome.parts.hit > 0
            values["by_hit"] = {
                name: _latencies_of(outcome, counted & where) for name, where in (("hit", was_hit), ("miss", ~was_hit))
            }
    return RunSummary(trace=trace, trace_sha256=trace_sha256, config=config, **values, **more)


def _cache_values(outcome: Outcome, skipped: int) -> dict[str, Any]:
    parts, allocated = outcome.parts, outcome.blocks_allocated
    assert parts is not None
    assert allocated is not None
    counted = slice(skipped, None)
    where = np.arange(outcome.prompt_tokens.size) >= skipped
    whole = rates(outcome, where)
    served = where & ~outcome.rejected
    values: dict[str, Any] = {}
    if parts.window is not None and parts.alignment is not None:
        values["miss_window_tokens"] = int(parts.window[counted].sum())
        values["miss_alignment_tokens"] = int(parts.alignment[counted].sum())
    if outcome.tier is not None:
        names = ("external_hit_tokens", *TIER_MISSES)
        values |= {name: int(part[counted].sum()) for name, part in zip(names, outcome.tier, strict=True)}
    if outcome.groups is None:  # else a block is no number of tokens
        values["slots_allocated"] = int(allocated[served].sum()) * outcome.block_size
        values["slots_filled"] = int(filled_slots(outcome)[served].sum())
    return {name: getattr(whole, name) for name in Rates.__struct_fields__ if name != "requests"} | {
        "miss_cold_tokens": int(parts.cold[counted].sum()),
        "miss_evicted_tokens": int(parts.evicted[counted].sum()),
        "miss_partial_tokens": int(parts.partial[counted].sum()),
        "miss_last_tokens": int(parts.last[counted].sum()),
        "by_workload": _by(outcome, outcome.labels.workload, where),
        "by_turn": _by(outcome, outcome.labels.turn, where),
        "by_tenant": _by(outcome, outcome.labels.tenant, where),
        **values,
    }


def filled_slots(outcome: Outcome) -> Array:
    """Tokens that each request computes at a first try, or loads into blocks of its own, [n].

    Raises:
        ValueError: the run has no attribution.
    """
    if outcome.parts is None:
        raise ValueError("a run without attribution has no hits; allowed: one with")
    found = outcome.parts.hit if outcome.tier is None else outcome.parts.hit - outcome.tier.external
    return computed_tokens(outcome.prompt_tokens, np.maximum(outcome.output_tokens, 1)) - found


def _by(outcome: Outcome, label: Label, counted: Mask) -> dict[str, Rates]:
    """The rates of each value of a label; numbers in their order, other names by the alphabet."""
    if not label.values:
        return {}
    codes = np.where(counted, label.codes, -1)
    found = rates_by(outcome, codes, len(label.values))
    names = {str(value): one for value, one in zip(label.values, found, strict=True) if one.requests}
    return {name: names[name] for name in sorted(names, key=name_order)}


def name_order(name: str) -> tuple[int, str]:
    """Sorts names: numbers in their order, others by the alphabet."""
    return len(name) if name.isdigit() else 0, name


def _by_replica(outcome: Outcome, fleet: Fleet, counted: Mask) -> dict[str, ReplicaResult]:
    codes = np.where(counted, fleet.replica, -1)
    found, results = rates_by(outcome, codes, len(fleet.evicted_blocks)), {}
    for number, (rate, evicted) in enumerate(zip(found, fleet.evicted_blocks, strict=True)):
        values: dict[str, Any] = {name: getattr(rate, name) for name in Rates.__struct_fields__}
        if evicted is not None:
            values["evicted_blocks"] = evicted
        if outcome.schedule is not None:
            values["preemptions"] = int(outcome.schedule.preemptions[codes == number].sum())
        results[str(number)] = ReplicaResult(capacity_blocks=fleet.capacity_blocks, **values)
    return results


def latencies(outcome: Outcome, where: Mask) -> dict[str, Any]:
    """Latencies in virtual milliseconds of those requests that `where` ([n]) chooses, and generated tokens a second.

    Nothing where no such request was served.
    """
    schedule = outcome.schedule
    served = where & ~outcome.rejected
    if schedule is None or not served.any():
        return {}
    # In thousandths of a millisecond, as the rows of requests have them.
    arrival, first, end = (
        np.round(getattr(schedule, name)[served], 3) for name in ("arrival_ms", "first_token_ms", "end_ms")
    )
    tokens = outcome.output_tokens[served]
    several = tokens > 1
    spans = {
        "ttft": first - arrival,
        "tpot": (end - first)[several] / (tokens - 1)[several],
        "e2e": end - arrival,
    }
    total_ms = float(end.max() - arrival.min())
    found: dict[str, Any] = {
        "output_tokens_per_s": round(int(tokens.sum()) / total_ms * 1000, 3) if total_ms > 0 else None
    }
    for name, values in spans.items():
        found |= {f"{name}_ms_p{share}": _percentile(values, share, 3) for share in SHARES}
    return found


def _latencies_of(outcome: Outcome, where: Mask) -> Latencies:
    """Apart from others, so that requests which wait for others' sake show."""
    served, schedule = where & ~outcome.rejected, outcome.schedule
    if schedule is None or not served.any():
        return Latencies(requests=0)
    found = {name: ms for name, ms in latencies(outcome, where).items() if name in Latencies.__struct_fields__}
    slowest = np.round(schedule.first_token_ms[served], 3) - np.round(schedule.arrival_ms[served], 3)
    return Latencies(requests=int(served.sum()), ttft_ms_max=round(float(slowest.max()), 3), **found)


def _percentile(values: Sequence[float] | Any, share: int, digits: int) -> float | None:
    return round(float(np.percentile(values, share)), digits) if len(values) else None


def _sum_known(values: Sequence[int | None] | None, skipped: int) -> int | None:
    known = [value for value in (values or ())[skipped:] if value is not None]
    return sum(known) if known else None


def _share(part: float, whole: float) -> float:
    return round(part / whole, 6) if whole else 0.0
