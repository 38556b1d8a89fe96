"""Runs the plan of study one on all cores, the engine's runs first."""

import os
from collections.abc import Callable, Sequence
from functools import partial

from milestone2_code.study.plan import ENGINE, QUICK_ENGINE, QUICK_POLICIES, WORKLOADS, points
from milestone2_code.study.rows import AnyPoint, maker_of, rows_of
from milestone2_code.study.study import ORACLE, EnginePoint, Study, key
from milestone2_code.study.timed import timed_trace
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.registry import POLICIES, find_policy
from vllm_sim.provenance import Maker, fingerprint
from vllm_sim.replay.backends import BACKENDS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.runner import PlannedRun, run_grid

FILE, ENGINE_FILE = "chat.jsonl", "chat_engine.jsonl"


def run_study(
    study: Study,
    say: Callable[[str], None],
    parts: Sequence[str] = (ENGINE_FILE, FILE),
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet.

    Args:
        study: where.
        say: called with a line on what happens.
        parts: the files to fill.
        jobs: processes, -1 for one a core.
        progress: called with the numbers of finished and of all runs.
    """
    if ENGINE_FILE in parts:
        for point in QUICK_ENGINE if study.quick else ENGINE:  # before several processes write one file
            timed_trace(study, point)
    # vLLM chooses its platform when a process imports it first: for the engine, which blockpool does not mind.
    os.environ[TRACE_VARIABLE] = str(study.trace(WORKLOADS[0]))
    plan = [
        PlannedRun(key(study, point), fingerprint(*makers(point)), (study.results / part,), point, _shared(point))
        for part in parts
        for point in planned(study, part)
    ]
    run_grid(plan, partial(rows_of, study), study.model, say, jobs, progress=progress)


def planned(study: Study, part: str) -> list[AnyPoint]:
    """The runs of a file, in its order."""
    if part == ENGINE_FILE:
        return list(QUICK_ENGINE if study.quick else ENGINE)
    return list(points(QUICK_POLICIES if study.quick else tuple(POLICIES), study.quick))


def row_again(study: Study, name: str) -> Row | None:
    """The row with this key, computed again; None if the plan has none."""
    for point in (*planned(study, ENGINE_FILE), *planned(study, FILE)):
        if key(study, point) == name:
            return rows_of(study, point)[0]
    return None


def makers(point: AnyPoint) -> list[Maker]:
    """What the row of a run comes from; of the policies its own, and `lru` to compare with."""
    if isinstance(point, EnginePoint):
        return [rows_of, maker_of(point), BACKENDS["engine"], find_policy("lru")]
    policies = ["lru"] if point.policy == ORACLE else ["lru", point.policy]
    return [rows_of, maker_of(point), BACKENDS[point.backend], *map(find_policy, policies)]


def _shared(point: AnyPoint) -> tuple[object, ...]:
    """What runs have in common that one process runs; the engine's one by one, the longest first."""
    if isinstance(point, EnginePoint):
        return (0, (*ENGINE, *QUICK_ENGINE).index(point))
    return (1, point.workload, point.system_prompt, point.block_size, point.pattern, point.backend)
