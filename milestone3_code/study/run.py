"""Runs study two: every point of the plan, on all cores, the engine's first."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import vllm_sim
from milestone3_code.study import cell, effects
from milestone3_code.study.plan import mixes, points
from milestone3_code.study.random_traffic import random_row
from milestone3_code.study.study import CELLS, Point, Study
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import about
from vllm_sim.sweep.results import commit
from vllm_sim.sweep.runner import Task, digest, run_tasks
from vllm_sim.trace.files import open_output

PACKAGE = Path(vllm_sim.__file__).parent
PLAN = Path(__file__).parents[1] / "study.toml"
EXPERIMENTS: dict[str, Callable[[Study, Point], Row]] = {
    "mix": cell.mix_row,
    "alone": cell.mix_row,
    "loss": cell.loss_row,
    "gap": cell.gap_row,
    "lost": cell.lost_row,
    "isolation": effects.isolation_row,
    "guarantee": effects.guarantee_row,
    "ablation": effects.ablation_row,
    "cold_start": effects.cold_start_row,
    "windows": effects.windows_row,
    "bytes": effects.bytes_row,
    "hash_trace": cell.hash_row,
    "random": random_row,
}
OTHER_POLICIES = {"loss": {"opt", "hybrid"}, "gap": {"opt"}, "random": set(POLICIES)}
"""Beside a point's own and LRU, those that its rows hang on."""


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
        say: told what happens.
        parts: `engine`, `cache`.
        jobs: processes, -1 for one a core.
        progress: called with the numbers of finished and of all points.

    Raises:
        ValueError: a mix was not built, or the plan cannot be used.
    """
    start = time.monotonic()
    chosen = list(points(plan, study))
    for mix in dict.fromkeys(point.mix for point in chosen):
        if mix != "all" and not study.trace(mix).is_file():
            raise ValueError(f"no {study.trace(mix)}; first run milestone3_code/build_mixes.py")
    # vLLM chooses its platform when a process imports it first.
    os.environ["VLLM_SIM_TRACE_PATH"] = str(study.trace(study.mixes[0]))
    tasks = [Task(key(study, point), code(point.experiment, point.policy), point.files(), point) for point in chosen]
    count = run_tasks(
        study.results,
        tasks,
        partial(rows_of, study),
        _shared,
        say,
        jobs,
        progress,
        only=lambda point: _part(point) in parts,
    )
    if count:
        values = about(RunConfig(model=Path(study.model).name), time.monotonic() - start)
        del values["host"]
        with open_output(study.results / CELLS.replace(".jsonl", ".run.json")) as file:
            file.write(json.dumps(values | {"points": count, "commit": commit()}, indent=2) + "\n")


def rows_of(study: Study, point: Point) -> list[Row]:
    """The rows of a point, one for each of its files."""
    if point.experiment == "engine":
        from milestone3_code.study.timed import engine_rows

        rows = engine_rows(study, point)
    else:
        rows = [EXPERIMENTS[point.experiment](study, point)]
    data = {"source": "drawn by seed"} if point.experiment == "random" else study.source(point.mix)
    return [row | {"data": data, "quick": study.quick} for row in rows]


def row_again(row: Row, trace: Path, model: str, plan: Path = PLAN) -> Row | None:
    """A stored row computed again; None if the plan has no such point.

    Args:
        row: of a mix, or of a hash-id trace.
        trace: its trace, with the other mixes beside it.
        model: the model's folder.
        plan: the TOML file, with the mixes' configurations in the folder mixes beside it.
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
    """Names a point over its trace."""
    return hashlib.sha256(f"{study.sha256(point.mix)} {study.quick} {point!r}".encode()).hexdigest()[:16]


@lru_cache
def code(experiment: str, policy: str) -> str:
    """A digest of the modules that rows come from; of the policies it holds those that the rows need."""
    used = {policy, "lru"} | OTHER_POLICIES.get(experiment, set())
    others = {path.partition(":")[0].rpartition(".")[2] for name, path in POLICIES.items() if name not in used}
    files = [
        Path(__file__).with_name(f"{name}.py")
        for name in ("asked", "cell", "effects", "random_traffic", "timed", "study")
    ]
    files.append(PACKAGE / "sweep" / "bootstrap.py")
    for folder in ("eviction", "replay", *(["engine"] if experiment == "engine" else [])):
        found = sorted((PACKAGE / folder).glob("*.py"))
        files += [path for path in found if folder != "eviction" or path.stem not in others]
    return digest(files)


def _part(point: Point) -> str:
    return "engine" if point.experiment == "engine" else "cache"


def _shared(point: Point) -> tuple[object, ...]:
    """The engine's points first, each by itself; of others those with the same blocks."""
    if point.experiment == "engine":
        return (0, point.mix, point.detail, point.policy)
    return (1, point.mix, point.block_size, point.workload or "")
