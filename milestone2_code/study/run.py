"""Runs the plan of study one on all cores, the engine's cells first."""

import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from milestone2_code.study.cell import Study, cache_row, code, engine_row, key, timed_trace
from milestone2_code.study.plan import ENGINE, QUICK_ENGINE, QUICK_POLICIES, WORKLOADS, EnginePoint, Point, points
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import about
from vllm_sim.sweep.results import commit
from vllm_sim.sweep.runner import Task, run_tasks
from vllm_sim.trace.files import open_output

FULL_CONVERSATIONS = 2000
"""Rows from fewer are marked as quick."""
CELLS, ENGINE_CELLS = "chat.jsonl", "chat_engine.jsonl"
AnyPoint = Point | EnginePoint


def run_study(
    study: Study,
    say: Callable[[str], None],
    parts: Sequence[str] = (ENGINE_CELLS, CELLS),
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet.

    Args:
        study: where.
        say: told what happens.
        parts: the files to fill.
        jobs: processes, -1 for one a core.
        progress: called with the numbers of finished and of all cells.

    NAME.run.json beside each file tells of the run that computed rows last.
    """
    start = time.monotonic()
    if ENGINE_CELLS in parts:
        for workload in WORKLOADS:  # before processes that need it would write it at the same time
            timed_trace(study, workload)
    # vLLM chooses its platform when a process imports it first: for the engine, which blockpool does not mind.
    os.environ["VLLM_SIM_TRACE_PATH"] = str(study.trace(WORKLOADS[0]))
    tasks = [_task(study, part, point) for part in parts for point in planned(study, part)]
    count = run_tasks(study.results, tasks, partial(rows_of, study), _shared, say, jobs, progress)
    if count:
        values = about(RunConfig(model=Path(study.model).name), time.monotonic() - start)
        del values["host"]
        text = json.dumps(values | {"points": count, "commit": commit()}, indent=2) + "\n"
        for part in parts:
            with open_output(study.results / part.replace(".jsonl", ".run.json")) as file:
                file.write(text)


def planned(study: Study, part: str) -> list[AnyPoint]:
    """The cells of a file, in its order."""
    if part == ENGINE_CELLS:
        return list(QUICK_ENGINE if study.quick else ENGINE)
    return list(points(QUICK_POLICIES if study.quick else tuple(POLICIES), study.quick))


def rows_of(study: Study, point: AnyPoint) -> list[Row]:
    """The row of a cell."""
    row = engine_row(study, point) if isinstance(point, EnginePoint) else cache_row(study, point)
    sessions = len({record.session_id for record in study.chats(point.workload).records})
    return [row | {"data": study.source(), "quick": study.quick or sessions < FULL_CONVERSATIONS}]


def row_again(study: Study, name: str) -> Row | None:
    """The row with this key, computed again; None if the plan has none."""
    for point in (*planned(study, ENGINE_CELLS), *planned(study, CELLS)):
        if key(study, point) == name:
            return rows_of(study, point)[0]
    return None


def _task(study: Study, part: str, point: AnyPoint) -> Task:
    digest = code("lru", False) if isinstance(point, EnginePoint) else code(point.policy, point.backend == "fast")
    return Task(key(study, point), digest, (part,), point)


def _shared(point: AnyPoint) -> tuple[object, ...]:
    """What cells have in common that one process runs; the engine's one by one, the longest first."""
    if isinstance(point, EnginePoint):
        return (0, ENGINE.index(point))
    return (1, point.workload, point.system_prompt, point.block_size, point.pattern, point.backend)
