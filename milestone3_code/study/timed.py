"""The rows of the engine: virtual times of requests, whole and by workload, and evictions by owner and evictor."""

import numpy as np

from milestone3_code.study.study import Point, Study
from milestone3_code.study.view import capacity_of, requests_of
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Mask, Outcome
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import run
from vllm_sim.replay.summary import latencies
from vllm_sim.sweep.bootstrap import Numbers, hits, ratio_intervals, time_intervals
from vllm_sim.sweep.bootstrap import in_order as renumbered
from vllm_sim.sweep.runs import load


def engine_rows(study: Study, point: Point) -> list[Row]:
    """A row of times and one with the matrices of evicted blocks."""
    view = study.view(point)
    config = RunConfig(
        model=study.model,
        capacity_blocks=capacity_of(point.capacity, view),
        block_size=point.block_size,
        policy=point.policy,
        speedup=point.speedup,
        concurrency=point.concurrency,
    )
    loaded = load(view.path, study.model)
    summary, outcome = run(loaded, config)
    marks: Row = {"experiment": "engine", "mix": point.mix, "workload": None, "capacity": point.capacity}
    marks |= {"point": point.detail}
    row = summary.to_row()
    for name in ("by_turn", "by_session"):
        del row[name]
    sessions = requests_of(view).sessions
    row |= _intervals(outcome, sessions, np.ones(sessions.size, np.bool_))
    label = outcome.labels.workload
    for code, name in enumerate(label.values):
        own = label.codes == code
        times = {key: value for key, value in latencies(outcome, own).items() if "_ms_" in key}
        row["by_workload"][str(name)] |= times | _intervals(outcome, sessions, own)
    blocks: dict[str, dict[str, dict[str, int]]] = {}
    for eviction in outcome.files["evictions.jsonl"]:
        blocks.setdefault(eviction["by"], {}).setdefault(eviction["owner"], {})[eviction["evictor"]] = eviction[
            "blocks"
        ]
    matrix = marks | {"experiment": "matrix"} | head(summary.trace, summary.trace_sha256, summary.config)
    matrix |= {"arrival": row["arrival"], "evicted_blocks": row["evicted_blocks"], "blocks": blocks}
    return [marks | row, matrix]


def _intervals(outcome: Outcome, sessions: Numbers, where: Mask) -> Row:
    own = renumbered(sessions[where])
    (pair,) = ratio_intervals(hits(outcome)[where][None], outcome.prompt_tokens[where][None], own)
    return {"token_hit_rate_ci95": pair} | time_intervals(outcome, sessions, where)
