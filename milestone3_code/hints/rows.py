"""The rows of the study of hints; see plan.py for what they mean."""

import os
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milestone3_code.hints.plan import Plan, Point, read_plan
from milestone3_code.study.stationary import warmup_share
from milestone3_code.study.study import Study
from milestone3_code.study.view import View, capacity_of, requests_of
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.chains import Array, Floats
from vllm_sim.eviction.names import OFFLINE
from vllm_sim.eviction.registry import find_policy
from vllm_sim.eviction.simulate import simulate
from vllm_sim.provenance import Maker, fingerprint
from vllm_sim.replay.backends import BACKENDS
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.requests import hints
from vllm_sim.replay.rows import Row, head
from vllm_sim.replay.run import run
from vllm_sim.sweep.runner import PlannedRun, run_grid
from vllm_sim.sweep.runs import load
from vllm_sim.trace.files import iter_records, write_records
from vllm_sim.trace.hinting import Hinting, hinted

FILE = "hints.jsonl"
PLAN = Path(__file__).parents[1] / "hints.toml"
SILENCE = Hinting(kinds=())
Mask = npt.NDArray[np.bool_]
_LEFT_OUT = ("by_turn", "by_workload", "by_tenant", "by_session")
"""Fields of an engine's row that are left out here."""


def run_study(
    plan: Plan,
    study: Study,
    say: Callable[[str], None],
    parts: tuple[str, ...] = ("engine", "cache"),
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet; arguments as those of study two's.

    Raises:
        ValueError: a mix was not built.
    """
    for trace in dict.fromkeys(point.trace for point in plan.points):
        if not study.trace(trace).is_file():
            raise ValueError(f"no {study.trace(trace)}; first run milestone3_code/build_mixes.py --seeds {plan.seeds}")
    for point in plan.points:  # here, as processes that write one file at a time would meet
        if point.backend == "engine" and part_of(point) in parts:
            write_spoken(study, point)
    os.environ[TRACE_VARIABLE] = str(study.trace(plan.points[0].trace))  # vLLM chooses its platform at import
    runs = [
        PlannedRun(
            key=key(study, point),
            code=fingerprint(*makers(point)),
            files=(study.results / FILE,),
            values=point,
            group=(0, place) if point.backend == "engine" else (1, point.mix, point.mix_seed),
        )
        for place, point in enumerate(plan.points)
    ]
    study.results.mkdir(parents=True, exist_ok=True)
    rows = partial(rows_of, study)
    run_grid(runs, rows, study.model, say, jobs, progress=progress, only=lambda point: part_of(point) in parts)


def part_of(point: Point) -> str:
    """`engine` or `cache`."""
    return "engine" if point.backend == "engine" else "cache"


def key(study: Study, point: Point) -> str:
    """Names a point over its trace."""
    return study.key(study.sha256(point.trace), point)


def makers(point: Point) -> list[Maker]:
    """What a row comes from: of policies those that it needs."""
    policies = {point.policy} if point.backend == "engine" else {point.policy, "lru", OFFLINE}
    return [rows_of, BACKENDS[point.backend], *map(find_policy, sorted(policies))]


def row_again(row: Row, trace: Path, model: str, plan: Path = PLAN) -> Row | None:
    """A stored row computed again; None if the plan has no such point.

    Args:
        row: of this study.
        trace: the trace of its mix, or the one that the engine served, which lies next to it.
        model: the model's folder.
        plan: the TOML file.
    """
    study = Study(
        configs=plan.parent / "mixes",
        data=trace.parent,
        model=model,
        results=trace.parent,
        mixes=(row["mix"],),
        quick=row["quick"],
    )
    for point in read_plan(plan, row["quick"]).points:
        if (point.mix, point.mix_seed) == (row["mix"], row["mix_seed"]) and key(study, point) == row["key"]:
            return rows_of(study, point)[0]
    return None


def rows_of(study: Study, point: Point) -> list[Row]:
    """The row of a point."""
    said = point.hinting
    what: Row = {"experiment": "hints", "mix": point.mix, "mix_seed": point.mix_seed, "said": point.said}
    what |= {"kinds": list(said.kinds), "share": said.share, "noise": said.noise, "lies": said.lies}
    what |= {"capacities": list(point.capacities)}
    found = engine_row(study, point) if point.backend == "engine" else cache_row(study, point)
    return [what | found | {"data": {"source": "built"}, "quick": study.quick}]


def cache_row(study: Study, point: Point) -> Row:
    """Hits at each capacity, over LRU, over silence, and of the optimum."""
    view = View(study.trace(point.trace), study.model, point.block_size)
    shown = requests_of(view)
    capacities = [capacity_of(text, view) for text in point.capacities]
    runs = [(point.policy, point.hinting), (point.policy, SILENCE), ("lru", SILENCE), (OFFLINE, SILENCE)]
    own, silent, lru, best = ([hits(view, *run, capacity) for capacity in capacities] for run in runs)
    gains, over_silence = ([a - b for a, b in zip(own, base, strict=True)] for base in (lru, silent))
    prompt = shown.requests.prompt_tokens
    names = ("prompt_tokens", "gain_tokens", "gain_over_silence_tokens")
    whole: list[Array] = [prompt * len(capacities), np.sum(gains, axis=0), np.sum(over_silence, axis=0)]

    def parts(masks: dict[str, Mask]) -> dict[str, dict[str, int]]:
        return {
            key: {name: int(tokens[mask].sum()) for name, tokens in zip(names, whole, strict=True)}
            for key, mask in masks.items()
        }

    def totals(tokens: list[Array]) -> list[int]:
        return [int(one.sum()) for one in tokens]

    row = head(view.path.name, load(view.path, view.model).trace.sha256, config_of(study, point, capacities))
    row |= {
        "prompt_tokens": int(prompt.sum()),
        "lru_hit_tokens": totals(lru),
        "gap_tokens": totals([a - b for a, b in zip(best, lru, strict=True)]),
        "gain_tokens": totals(gains),
        "gain_over_silence_tokens": totals(over_silence),
        "by_workload": parts(shown.tagged("workload")),
    }
    if 0 < point.hinting.share < 1:
        speaks: Mask = np.any(np.isfinite(hints_said(view, point.hinting)), axis=1)
        row["by_client"] = parts({"speaking": speaks, "silent": ~speaks})
    return row


def config_of(study: Study, point: Point, capacities: list[int | None], **more: Any) -> RunConfig:
    """As a replay would have it; of several capacities none is named."""
    return RunConfig(
        model=study.model,
        backend=point.backend,
        capacity_blocks=capacities[0] if len(capacities) == 1 else None,
        block_size=point.block_size,
        policy=point.policy,
        **more,
    )


@lru_cache(maxsize=32)
def hits(view: View, policy: str, said: Hinting, capacity: int | None) -> Array:
    """Hit tokens of each request; [n]."""
    shown = requests_of(view)
    chains = shown.chains._replace(hints=hints_said(view, said))
    tokens: Any = simulate(chains, policy, capacity).hit * view.block_size
    return np.minimum(tokens, shown.requests.prompt_tokens)


@lru_cache(maxsize=8)
def hints_said(view: View, said: Hinting) -> Floats:
    """What the clients of a view say; [n, 4]."""
    numbered = list(enumerate(requests_of(view).records, 1))
    return hints(hinted(view.path, numbered, said)[0])


def engine_row(study: Study, point: Point) -> Row:
    """A mix under vLLM's scheduler."""
    timing, (text,) = point.timing, point.capacities
    assert timing is not None
    loaded = load(write_spoken(study, point), study.model)
    warmup = warmup_share(loaded.path, study.model, timing.warmup_s)
    capacity = capacity_of(text, View(study.trace(point.trace), study.model, point.block_size))  # of the whole mix
    config = config_of(study, point, [capacity], device=timing.device, warmup=warmup)
    summary = run(loaded, config).summary.to_row()
    kept = {name: value for name, value in summary.items() if name not in _LEFT_OUT}
    return kept | {"load": timing.load, "seconds": timing.seconds, "warmup_s": timing.warmup_s}


def write_spoken(study: Study, point: Point) -> Path:
    """The trace that the engine serves, next to its mix: written where it is not there, or older than what it is of."""
    assert point.timing is not None
    silent = study.stationary(point.mix, point.mix_seed, point.timing)
    path = study.data / f"hints_{point.said}_{silent.name}"
    if not path.is_file() or path.stat().st_mtime_ns < silent.stat().st_mtime_ns:
        write_records(path, iter(hinted(silent, list(iter_records(silent)), point.hinting)[0]))
    return path
