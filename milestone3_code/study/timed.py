"""The rows of the engine: a mix at a load under vLLM's scheduler, in virtual time, measured after a warm-up.

Measured are the requests that are due after the warm-up, by the times of the trace, so those are the same in every
run. Each policy is compared with LRU's run of the same trace and capacity, request by request.

`belady` needs an order of requests in advance, and the order of admission depends on what is hit. It gets the order of
LRU's run first, then that of its own run before, until the order stays (`future_settled`) or ROUNDS runs were made; the
best of them is the row. It is no proven bound: what is evicted also moves the schedule.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from milestone3_code.study.cache_rows import units
from milestone3_code.study.names import RATES
from milestone3_code.study.prefill import prefill_of
from milestone3_code.study.study import Point, Study
from milestone3_code.study.view import View, capacity_of, requests_of, session_numbers
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Mask, Outcome
from vllm_sim.replay.rows import Row, RunSummary, head
from vllm_sim.replay.run import Loaded, run
from vllm_sim.replay.run import load as run_load
from vllm_sim.replay.summary import latencies, rates
from vllm_sim.sweep.bootstrap import hits, in_order, ratio_intervals, time_intervals
from vllm_sim.sweep.runs import load
from vllm_sim.trace.files import iter_records, write_records

ROUNDS = 4
PART_TIMES = ("ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p90_ci95", "ttft_ms_p99")
"""Of a workload."""
Numbers = npt.NDArray[Any]


class _Ran(NamedTuple):
    """A run; its arrays are in the order of the trace."""

    summary: RunSummary
    outcome: Outcome
    rounds: int = 0
    is_settled: bool = False


def engine_row(study: Study, point: Point) -> Row:
    """The row of a policy at a capacity, on a mix at a load."""
    timing = point.timing
    assert timing is not None
    view = View(study.stationary(point.mix, point.mix_seed, timing), study.model, point.block_size)
    loaded = load(view.path, study.model)
    capacity = capacity_of(point.capacity, study.view(point))  # of the whole mix, so as large as without a scheduler
    config = RunConfig(
        model=study.model,
        capacity_blocks=capacity,
        block_size=point.block_size,
        policy=point.policy,
        device=timing.device,
    )
    base = _lru(view, capacity, timing.device)
    if point.policy == "lru":
        ran = base
    elif point.policy == "belady":
        ran = _optimum(loaded, config, base.outcome, timing.warmup_s)
    else:
        ran = _Ran(*run(loaded, config))
    is_measured = _due_ms(loaded) >= timing.warmup_s * 1000
    assert ran.outcome.schedule is not None
    row: Row = {
        "experiment": point.experiment,
        "mix": point.mix,
        "mix_seed": point.mix_seed,
        "workload": None,
        "capacity": point.capacity,
        **timing._asdict(),
        **head(ran.summary.trace, ran.summary.trace_sha256, ran.summary.config),
        "arrival": f"open, sessions at {timing.load:g} times the mix's rates",
        "capacity_tokens": ran.summary.capacity_tokens,
        **units(study, view, capacity),
        "trace_requests": len(loaded.records),
        "warmup_requests": int((~is_measured).sum()),
        "working_set_blocks": requests_of(view).chains.working_set,
        "rejected_requests": int(ran.outcome.rejected.sum()),
        "retokenised_tokens": sum(
            count or 0 for count, own in zip(loaded.retokenised, is_measured, strict=True) if own
        ),
        "preemptions": int(ran.outcome.schedule.preemptions[is_measured].sum()),
    }
    if point.policy == "belady":
        row |= {"policy_future": "order of admission of the run before"}
        row |= {"future_rounds": ran.rounds, "future_settled": ran.is_settled}
    sessions = session_numbers(loaded.records)
    row |= _rates(ran.outcome, base.outcome, sessions, is_measured)
    row |= _times(ran.outcome, base.outcome, sessions, is_measured)
    end_ms = timing.seconds * 1000
    row["running_requests"] = _running(ran.outcome, timing.warmup_s * 1000, end_ms)
    tflops = prefill_of(study.model, timing.device).operations(hits(ran.outcome)[is_measured]).sum() / 1e12
    seconds = prefill_of(study.model, timing.device).seconds(tflops * 1e12)
    row |= {"saved_tflops": round(float(tflops), 3), "saved_s": round(float(seconds), 3), "by_workload": {}}
    names = np.array([str(record.workload) for record in loaded.records])
    for name in np.unique(names).tolist():
        own = is_measured & (names == name)
        if own.any():
            row["by_workload"][name] = _part(ran.outcome, base.outcome, sessions, own)
    return row


def _due_ms(loaded: Loaded) -> Numbers:
    return np.array([record.timestamp for record in loaded.records], np.float64)


@lru_cache(maxsize=1)
def _lru(view: View, capacity: int | None, device: str) -> _Ran:
    """LRU's run, which all policies at a point are compared with."""
    config = RunConfig(model=view.model, capacity_blocks=capacity, block_size=view.block_size, device=device)
    return _Ran(*run(load(view.path, view.model), config))


def _rates(outcome: Outcome, base: Outcome, sessions: Numbers, where: Mask) -> Row:
    """What is hit, and the gain over LRU's run."""
    gains, prompt = (hits(outcome) - hits(base))[where], outcome.prompt_tokens[where]
    (pair,) = ratio_intervals(gains[None], prompt[None], in_order(sessions[where]))
    gain = round(float(gains.sum() / max(1, prompt.sum())), 6)
    return msgspec.to_builtins(rates(outcome, where)) | {"gain_over_lru": gain, "gain_over_lru_ci95": pair}


def _times(outcome: Outcome, base: Outcome, sessions: Numbers, where: Mask) -> Row:
    """Latencies, and how much later first tokens come than in LRU's run, request by request."""
    ttft = [run.schedule.first_token_ms - run.schedule.arrival_ms for run in (outcome, base) if run.schedule]
    served = where & ~outcome.rejected & ~base.rejected
    later = (ttft[0] - ttft[1])[served]
    (pair,) = ratio_intervals(later[None], np.ones((1, later.size)), in_order(sessions[served]))
    intervals = time_intervals(outcome, sessions, where)
    kept = {name: values for name, values in intervals.items() if name.startswith("ttft")}
    mean = round(float(later.mean()), 3)
    return latencies(outcome, where) | kept | {"ttft_over_lru_ms": mean, "ttft_over_lru_ms_ci95": pair}


def _part(outcome: Outcome, base: Outcome, sessions: Numbers, where: Mask) -> Row:
    """The fields of a workload."""
    found = _rates(outcome, base, sessions, where) | _times(outcome, base, sessions, where)
    names = ("requests", "prompt_tokens", *RATES, "gain_over_lru")
    return {name: found[name] for name in (*names, *PART_TIMES)}


def _running(outcome: Outcome, begin_ms: float, end_ms: float) -> float:
    """Requests that run at a time, the mean between two times."""
    schedule = outcome.schedule
    assert schedule is not None
    first, last = (np.clip(times, begin_ms, end_ms) for times in (schedule.first_scheduled_ms, schedule.end_ms))
    return round(float(np.nansum(last - first) / (end_ms - begin_ms)), 3)


def _optimum(loaded: Loaded, config: RunConfig, base: Outcome, warmup_s: float) -> _Ran:
    """The best of some runs, each with the order of admission of the one before for its future."""
    is_measured = _due_ms(loaded) >= warmup_s * 1000
    order, best, most = _admission(base), None, -1.0
    for number in range(1, ROUNDS + 1):
        with _reordered(loaded, config, order) as again:
            found = run(again, config)
        outcome = _in_trace_order(found.outcome, order)
        new, hit = _admission(outcome), float(hits(outcome)[is_measured].sum())
        is_settled = bool((new == order).all())
        if hit > most or is_settled:
            best, most = _Ran(found.summary, outcome, number, is_settled), max(most, hit)
        if is_settled:
            break
        order = new
    assert best is not None
    return best._replace(rounds=number)


def _admission(outcome: Outcome) -> Numbers:
    """The rows in the order in which they were scheduled first; in one step, in that of their arrival."""
    schedule = outcome.schedule
    assert schedule is not None
    return np.lexsort((schedule.arrival_ms, schedule.first_scheduled_ms))


@contextmanager
def _reordered(loaded: Loaded, config: RunConfig, order: Numbers) -> Iterator[Loaded]:
    """A trace with its rows in another order; what is kept of it goes afterwards.

    Args:
        loaded: the trace, of token ids.
        config: of the run.
        order: [n], the row at each place.
    """
    records = [record for _, record in iter_records(loaded.path)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / loaded.path.name
        write_records(path, [records[row] for row in order])
        again = run_load(path, config.model)
        yield again
        shutil.rmtree(again.trace.folder, ignore_errors=True)


def _in_trace_order(outcome: Outcome, order: Numbers) -> Outcome:
    """What came of a reordered trace, its requests as the trace has them; labels stay as they are."""
    places = np.argsort(order)
    assert outcome.parts is not None
    assert outcome.schedule is not None
    parts = outcome.parts._replace(
        **{name: values[places] for name, values in outcome.parts._asdict().items() if values is not None}
    )
    times = {field.name: getattr(outcome.schedule, field.name)[places] for field in fields(outcome.schedule)}
    arrays = {name: getattr(outcome, name)[places] for name in ("prompt_tokens", "output_tokens", "rejected")}
    return replace(outcome, parts=parts, schedule=replace(outcome.schedule, **times), **arrays)
