"""Runs study three: every point of its plan, on all cores, the engine's first."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from milestone3_code.routing.plan import Point, points, size_of
from milestone3_code.routing.rows import MAKERS, rows_of
from milestone3_code.study.study import Study
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.names import OFFLINE
from vllm_sim.eviction.registry import find_policy
from vllm_sim.fleet.names import DEFAULT
from vllm_sim.fleet.registry import find_router
from vllm_sim.provenance import Maker, fingerprint
from vllm_sim.replay.backends import BACKENDS, CACHES
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.runner import PlannedRun, run_grid

PLAN = Path(__file__).parents[1] / "routing.toml"


def run_study(
    plan: Path,
    study: Study,
    say: Callable[[str], None],
    parts: Sequence[str] = ("engine", "cache"),
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet; arguments as those of study two's.

    Raises:
        ValueError: a mix was not built, or the plan cannot be used.
    """
    chosen = list(points(plan, study))
    for trace in dict.fromkeys(point.trace for point in chosen):
        if not study.trace(trace).is_file():
            seeds = size_of(plan, study.quick).seeds
            raise ValueError(f"no {study.trace(trace)}; first run milestone3_code/build_mixes.py --seeds {seeds}")
    for point in chosen:
        if point.timing is not None and _part(point) in parts:  # before several processes write one file
            study.stationary(point.mix, point.mix_seed, point.timing)
    os.environ[TRACE_VARIABLE] = str(study.trace(chosen[0].trace))  # vLLM chooses its platform at its import
    runs = [
        PlannedRun(
            key=key(study, point),
            code=fingerprint(*makers(point)),
            files=(study.results / point.file,),
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
        row: of this study.
        trace: its trace.
        model: the model's folder.
        plan: the TOML file.
    """
    is_given = row["data"]["source"] == "given by path"
    study = Study(
        configs=plan.parent / "mixes",
        data=trace.parent,
        model=model,
        results=trace.parent,
        mixes=() if is_given else (row["mix"],),
        quick=row["quick"],
        hash_traces=(trace,) if is_given else (),
    )
    for point in points(plan, study):
        if (point.mix, point.mix_seed) == (row["mix"], row["mix_seed"]) and key(study, point) == row["key"]:
            return rows_of(study, point)[0]
    return None


def key(study: Study, point: Point) -> str:
    """Names a point over its trace."""
    return study.key(study.sha256(point.trace), point)


def makers(point: Point) -> list[Maker]:
    """What a row comes from: of policies and routers those that it needs."""
    backends = [BACKENDS["fast"], CACHES["fast"], *([BACKENDS["engine"]] if _part(point) == "engine" else [])]
    policies = sorted({point.policy, "lru", OFFLINE})
    return [
        rows_of,
        MAKERS[point.experiment],
        *backends,
        *map(find_policy, policies),
        *map(find_router, sorted({point.router, DEFAULT})),
    ]


def _part(point: Point) -> str:
    return "engine" if point.experiment == "fleet_engine" else "cache"


def _shared(point: Point) -> tuple[object, ...]:
    """The engine's points first, each by itself; of others those of one trace."""
    if point.experiment == "fleet_engine":
        return (0, point.mix, point.mix_seed, point.router, point.policy)
    return (1, point.mix, point.mix_seed)
