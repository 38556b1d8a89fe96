"""Runs study two: every point of the plan, on all cores, the engine's first."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from milestone3_code.study.plan import mixes, points
from milestone3_code.study.rows import EXPERIMENTS, rows_of
from milestone3_code.study.study import SEEDS, Point, Study
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.registry import POLICIES, find_policy
from vllm_sim.provenance import Maker, file_sha256, fingerprint
from vllm_sim.replay.backends import BACKENDS
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.runner import PlannedRun, run_grid

PLAN = Path(__file__).parents[1] / "study.toml"
OTHER_POLICIES = {"loss": {"belady", "hybrid"}, "random": set(POLICIES)}
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
    for mix, seed in dict.fromkeys((point.mix, point.mix_seed) for point in chosen):
        if mix != "all" and not study.trace(mix, seed).is_file():
            more = max(point.mix_seed for point in chosen if point.mix != "all") + 1
            raise ValueError(f"no {study.trace(mix, seed)}; first run milestone3_code/build_mixes.py --seeds {more}")
    # vLLM chooses its platform when a process imports it first.
    os.environ[TRACE_VARIABLE] = str(study.trace(study.mixes[0]))
    if "engine" in parts:
        for point in chosen:
            if point.timing is not None:  # before several processes write one file
                study.stationary(point.mix, point.mix_seed, point.timing)
    steps = [[point for point in chosen if (point.experiment == "gap") == is_gap] for is_gap in (False, True)]
    for step in steps[: 1 + ("cache" in parts)]:  # the gaps are made of rows that the first step gives
        runs = [
            PlannedRun(
                key=key(study, point),
                code=fingerprint(*makers(point)),
                files=tuple(study.results / name for name in point.files()),
                values=point,
                group=_shared(point),
            )
            for point in step
        ]
        rows = partial(rows_of, study)
        run_grid(runs, rows, study.model, say, jobs, progress=progress, only=lambda point: _part(point) in parts)


def row_again(row: Row, trace: Path, model: str, plan: Path = PLAN, results: Path | None = None) -> Row | None:
    """A stored row computed again; None if the plan has no such point.

    Args:
        row: of a mix, or of a hash-id trace.
        trace: its trace, with the other mixes next to it.
        model: the model's folder.
        plan: the TOML file, with the mixes' configurations in the folder mixes next to it.
        results: folder of the rows, which a row over several draws is made from.
    """
    study = Study(
        configs=plan.parent / "mixes",
        data=trace.parent,
        model=model,
        results=results or trace.parent,
        mixes=mixes(plan, row["quick"]),
        quick=row["quick"],
        hash_traces=(trace,) if row["experiment"] == "hash_trace" else (),
    )
    of_row = (row["experiment"], row["mix"], row.get("mix_seed", 0))
    for point in points(plan, study):
        if (point.experiment, point.mix, point.mix_seed) == of_row and key(study, point) == row["key"]:
            return rows_of(study, point)[0]
    return None


def key(study: Study, point: Point) -> str:
    """Names a point over what it is made from."""
    if point.experiment == "random":
        of = "no trace"
    elif point.experiment == "gap":
        of = file_sha256(study.results / SEEDS)
    else:
        of = study.sha256(point.mix, point.mix_seed)
    return study.key(of, point)


def makers(point: Point) -> list[Maker]:
    """What rows come from; of the policies those that they need."""
    used = {point.policy, "lru", *point.policies} | OTHER_POLICIES.get(point.experiment, set())
    backend = [BACKENDS["engine"]] if point.experiment == "engine" else []
    return [rows_of, EXPERIMENTS[point.experiment], *backend, *map(find_policy, sorted(used))]


def _part(point: Point) -> str:
    return "engine" if point.experiment == "engine" else "cache"


def _shared(point: Point) -> tuple[object, ...]:
    """The engine's points first, those of a capacity together; of others those with the same blocks."""
    if point.timing is not None:
        return (0, point.mix, point.mix_seed, point.timing, point.capacity)
    if point.experiment == "gap":
        return (2,)
    return (1, point.mix, point.mix_seed, point.block_size, point.workload or "")
