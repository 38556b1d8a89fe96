"""Runs study two: every point of the plan, on all cores, the engine's first."""

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from milestone3_code.study.plan import mixes, points
from milestone3_code.study.rows import EXPERIMENTS, rows_of
from milestone3_code.study.study import Point, Study
from vllm_sim.eviction.registry import POLICIES, find_policy
from vllm_sim.provenance import Maker, fingerprint
from vllm_sim.replay.backends import BACKENDS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.runner import PlannedRun, run_grid

PLAN = Path(__file__).parents[1] / "study.toml"
OTHER_POLICIES = {"loss": {"belady", "hybrid"}, "gap": {"belady"}, "random": set(POLICIES)}
"""Policies that rows are compared with, besides a point's own and LRU."""


def run_study(
    plan: Path,
    study: Study,
    say: Callable[[str], None],
    parts: Sequence[str] = ("engine", "cache"),
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet.

    Args:
        plan: the TOML file.
        study: where.
        say: called with a line on what happens.
        parts: `engine`, `cache`.
        jobs: processes, -1 for one a core.
        progress: called with the numbers of finished and of all points.

    Raises:
        ValueError: a mix was not built, or the plan cannot be used.
    """
    chosen = list(points(plan, study))
    for mix in dict.fromkeys(point.mix for point in chosen):
        if mix != "all" and not study.trace(mix).is_file():
            raise ValueError(f"no {study.trace(mix)}; first run milestone3_code/build_mixes.py")
    # vLLM chooses its platform when a process imports it first.
    os.environ["VLLM_SIM_TRACE_PATH"] = str(study.trace(study.mixes[0]))
    runs = [
        PlannedRun(
            key=key(study, point),
            code=fingerprint(*makers(point.experiment, point.policy)),
            files=tuple(study.results / name for name in point.files()),
            values=point,
            group=_shared(point),
        )
        for point in chosen
    ]
    rows = partial(rows_of, study)
    run_grid(runs, rows, study.model, say, jobs, progress=progress, only=lambda point: _part(point) in parts)


def row_again(row: Row, trace: Path, model: str, plan: Path = PLAN) -> Row | None:
    """A stored row computed again; None if the plan has no such point.

    Args:
        row: of a mix, or of a hash-id trace.
        trace: its trace, with the other mixes next to it.
        model: the model's folder.
        plan: the TOML file, with the mixes' configurations in the folder mixes next to it.
    """
    study = Study(
        configs=plan.parent / "mixes",
        data=trace.parent,
        model=model,
        results=trace.parent,
        mixes=mixes(plan, row["quick"]),
        quick=row["quick"],
        hash_traces=(trace,) if row["experiment"] == "hash_trace" else (),
    )
    for point in points(plan, study):
        if point.mix == row["mix"] and key(study, point) == row["key"]:
            return next(again for again in rows_of(study, point) if again["experiment"] == row["experiment"])
    return None


def key(study: Study, point: Point) -> str:
    """Names a point over its trace and a model, of which the folder's name counts."""
    text = f"{study.sha256(point.mix)} {Path(study.model).name} {study.quick} {point!r}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def makers(experiment: str, policy: str) -> list[Maker]:
    """What rows come from; of the policies those that they need."""
    used = {policy, "lru"} | OTHER_POLICIES.get(experiment, set())
    backend = [BACKENDS["engine"]] if experiment == "engine" else []
    return [rows_of, EXPERIMENTS[experiment], *backend, *map(find_policy, sorted(used))]


def _part(point: Point) -> str:
    return "engine" if point.experiment == "engine" else "cache"


def _shared(point: Point) -> tuple[object, ...]:
    """The engine's points first, each by itself; of others those with the same blocks."""
    if point.experiment == "engine":
        return (0, point.mix, point.detail, point.policy)
    return (1, point.mix, point.block_size, point.workload or "")
