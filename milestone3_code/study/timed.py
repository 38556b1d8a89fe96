"""The rows of the engine: times of requests in virtual time, whole and by workload, and who evicts whom."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from milestone3_code.study.asked import asked, capacity_of
from milestone3_code.study.study import Point, Study
from vllm_sim.replay.rows import Row
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.summary import head, summarise, summary_row
from vllm_sim.replay.virtual import run_engine
from vllm_sim.sweep.bootstrap import numbers, ratio_intervals, time_intervals
from vllm_sim.sweep.runs import load


def engine_rows(study: Study, point: Point) -> list[Row]:
    """A row of times and one with the matrices of evicted blocks."""
    view = study.view(point)
    settings = Settings(
        model=study.model,
        capacity_blocks=capacity_of(point.capacity, view),
        block_size=point.block_size,
        policy=point.policy,
        speedup=point.speedup,
        concurrency=point.concurrency,
    )
    loaded = load(view.path, study.model)
    with tempfile.TemporaryDirectory() as folder:
        outcome = run_engine(view.path, Path(folder), loaded.trace, loaded.records, settings, lambda done: None)
    marks: Row = {"experiment": "engine", "mix": point.mix, "workload": None, "capacity": point.capacity}
    marks |= {"point": point.detail}
    summary = summarise(view.path, loaded.trace, outcome, settings, loaded.retokenised)
    for name in ("by_turn", "by_session"):
        del summary[name]
    sessions = asked(view).sessions.tolist()
    rows = [row | {"session_id": number} for row, number in zip(outcome.rows, sessions, strict=True)]
    summary |= _intervals(rows)
    for name in summary["by_workload"]:
        own = [row for row in rows if row["workload"] == name]
        times = {key: value for key, value in summary_row(own, point.block_size, 0.0).items() if "_ms_" in key}
        summary["by_workload"][name] |= times | _intervals(own)
    blocks: dict[str, dict[str, dict[str, int]]] = {}
    for row in outcome.files["evictions.jsonl"]:
        blocks.setdefault(row["by"], {}).setdefault(row["owner"], {})[row["evictor"]] = row["blocks"]
    matrix = marks | {"experiment": "matrix"} | head(view.path, loaded.trace, settings)
    matrix |= {"arrival": summary["arrival"], "evicted_blocks": summary["evicted_blocks"], "blocks": blocks}
    return [marks | summary, matrix]


def _intervals(rows: Sequence[Row]) -> Row:
    hit, prompt = (np.array([row[name] for row in rows], np.float64) for name in ("hit_tokens", "prompt_tokens"))
    (pair,) = ratio_intervals(hit[None], prompt[None], numbers(rows))
    return {"token_hit_rate_95": pair} | time_intervals(rows)
