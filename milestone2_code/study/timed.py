"""The rows of study one that the engine gives: times in virtual time."""

import hashlib
from pathlib import Path

import numpy as np

from milestone2_code.study.steady import counted, steady, window_row
from milestone2_code.study.study import MAIN_BLOCK, EnginePoint, Study, capacity_blocks
from milestone2_code.study.workload import Chats, Pattern
from vllm_sim.provenance import fingerprint
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import run
from vllm_sim.replay.summary import latencies
from vllm_sim.sweep.bootstrap import time_intervals, with_intervals
from vllm_sim.sweep.runs import load
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record

DEVICE = "l4"
"""One that a 1B model keeps busy; beside its weights it holds about a tenth of the conversations."""
TIMED_AFTER = 4
"""Requests a place of a closed loop, after which latencies count."""


def engine_row(study: Study, point: EnginePoint) -> Row:
    """The row of a run of the engine: times from the roofline model of a DEVICE."""
    found = steady(study.chats(point.workload), MAIN_BLOCK, point.pattern)
    capacity, count = capacity_blocks(study, point.workload, point.share, MAIN_BLOCK, False), found.rows.size
    config = RunConfig(
        model=study.model,
        capacity_blocks=capacity,
        block_size=MAIN_BLOCK,
        concurrency=point.concurrency,
        device=DEVICE,
        warmup=(found.first + 0.5) / count if found.first else 0.0,
    )
    summary, whole = run(load(timed_trace(study, point), study.model), config)
    outcome = counted(whole, found.first)
    values: Row = {"experiment": "engine", "workload": point.workload, "capacity_share": point.share}
    row = with_intervals(summary.to_row(), outcome)
    # A closed loop fills all its places at once, so its first requests wait for each other.
    first = max(found.first, min(TIMED_AFTER * (point.concurrency or 0), count // 2))
    is_timed = np.arange(found.first, count) >= first
    row |= latencies(outcome, is_timed) | {"untimed_requests": int((~is_timed).sum())}
    times = time_intervals(outcome, outcome.labels.session.codes, is_timed)
    times.pop("output_tokens_per_s_ci95", None)  # of tokens drawn, in a time that was not
    return values | point.pattern._asdict() | row | window_row(found, study.model, capacity, MAIN_BLOCK) | times


def timed_trace(study: Study, point: EnginePoint) -> Path:
    """The chats as the engine reads them, written if they are not there; trace, pattern and code decide the name."""
    chats = study.chats(point.workload)
    mark = hashlib.sha256(f"{fingerprint(write_timed)} {chats.trace.sha256} {point.pattern}".encode()).hexdigest()[:8]
    path = study.data / f"timed_{point.workload}_{mark}.jsonl"
    if not path.is_file():
        write_timed(chats, point.pattern, path)
    return path


def write_timed(chats: Chats, pattern: Pattern, path: Path) -> None:
    """Writes the requests of a pattern as token ids with arrival and think times, for the engine."""
    found = steady(chats, MAIN_BLOCK, pattern)

    def record(place: int) -> Record:
        row, copy = int(found.rows[place]), int(found.requests.salt[place])
        given = chats.records[row]
        return Record(
            prompt_token_ids=chats.trace.prompt(row).tolist(),
            response_token_ids=chats.trace.response(row).tolist(),
            finish_reason="length" if chats.trace.cut[row] else None,
            timestamp=float(1000 * found.times_s[place]),
            session_id=f"{given.session_id} {copy}",
            turn=given.turn,
            workload=given.workload,
            cache_salt=str(copy) if copy else None,
            think_time_ms=float(1000 * found.pauses_s[place]) if given.turn else None,
        )

    write_records(path, (record(place) for place in range(found.rows.size)))
