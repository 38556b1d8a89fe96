"""The rows of study one that the engine gives: times in virtual time."""

import hashlib
from pathlib import Path

import numpy as np

from milestone2_code.study.study import MAIN_BLOCK, EnginePoint, Study, capacity_blocks
from milestone2_code.study.workload import write_timed
from vllm_sim.provenance import fingerprint
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import run
from vllm_sim.replay.summary import latencies
from vllm_sim.sweep.bootstrap import time_intervals, with_intervals
from vllm_sim.sweep.runs import load

TIMED_AFTER = 4
"""Requests a place of a closed loop, after which latencies count."""


def engine_row(study: Study, point: EnginePoint) -> Row:
    """The row of a run of the engine: times from the roofline model of an H100."""
    config = RunConfig(
        model=study.model,
        capacity_blocks=capacity_blocks(study, point.workload, point.share, MAIN_BLOCK, False),
        block_size=MAIN_BLOCK,
        concurrency=point.concurrency,
    )
    summary, outcome = run(load(timed_trace(study, point), study.model), config)
    values: Row = {"experiment": "engine", "workload": point.workload, "capacity_share": point.share}
    row = with_intervals(summary.to_row(), outcome)
    if point.concurrency is not None:  # all places are filled at once, so the first requests wait for each other
        count = outcome.prompt_tokens.size
        is_timed = np.arange(count) >= min(TIMED_AFTER * point.concurrency, count // 2)
        row |= latencies(outcome, is_timed) | {"untimed_requests": int((~is_timed).sum())}
    else:
        is_timed = np.ones(outcome.prompt_tokens.size, np.bool_)
    times = time_intervals(outcome, outcome.labels.session.codes, is_timed)
    times.pop("output_tokens_per_s_ci95", None)  # of tokens drawn, in a time that was not
    return values | point.pattern._asdict() | row | times


def timed_trace(study: Study, point: EnginePoint) -> Path:
    """The chats as the engine reads them, written if they are not there; trace, pattern and code decide the name."""
    chats = study.chats(point.workload)
    mark = hashlib.sha256(f"{fingerprint(write_timed)} {chats.trace.sha256} {point.pattern}".encode()).hexdigest()[:8]
    path = study.data / f"timed_{point.workload}_{mark}.jsonl"
    if not path.is_file():
        write_timed(chats, point.pattern, path)
    return path
