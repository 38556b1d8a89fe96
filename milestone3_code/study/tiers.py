"""GPU memory against CPU memory: what a second tier gives and costs. Points of tiers.toml, and their rows.

results/tiers.jsonl, a row a run, each once however many grids have it: the fields of summary.jsonl without those of
turns, tenants and sessions, and

    experiment  "tiers"
    mix         of study two, or the file's name of a trace of hash ids
    gpu, cpu    as the TOML file says them: shares of the working set of the whole mix or trace, at least what the
                largest request needs, or for CPU memory the longest prompt; cpu "none": no CPU memory
    gbps        as the TOML file says it: "device", or 10^9 bytes a second in each direction (engine)
    load, seconds, warmup_s  of the engine, as in the rows of study two
    bound       true: one cache of both sizes under the optimum, in place of two tiers
    data, quick as in the rows of study two (plan.py)

The engine serves a mix as in study two (stationary.py), at the load of tiers.toml, and what is due before `warmup_s` is
left out; `fast` serves the whole mix. Traces of hash ids are run by vLLM's rules, a block for each id; the blocks that
they generate take room and are never hit.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from milestone3_code.study.plan import LIST, TABLES, hash_block_size, timing_of
from milestone3_code.study.stationary import warmup_share
from milestone3_code.study.study import MAIN_BLOCK, Study, Timing
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.models.layers import kv_bytes_a_token
from vllm_sim.replay.config import RunConfig, config_of
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.capacity import capacity_blocks
from vllm_sim.sweep.runner import PlannedRun, run_grid
from vllm_sim.sweep.runs import GridRun, blocks, compilers, make_row, row_code, row_key
from vllm_sim.workloads.tables import SWITCH, TomlTable, choice, read_toml

FILE = "tiers.jsonl"
PLAN = Path(__file__).parents[1] / "tiers.toml"
MARKS = ("experiment", "mix", "gpu", "cpu", "gbps", "bound", "load", "seconds", "warmup_s", "data", "quick")
NONE, DEVICE = "none", "device"
LEFT_OUT = ("by_turn", "by_tenant", "by_session")


class TierPoint(NamedTuple):
    """A run of the plan."""

    mix: str
    gpu: str
    cpu: str
    gbps: str
    is_bound: bool
    run: GridRun
    timing: Timing | None
    """Of the engine."""


def tier_mixes(plan: Path, quick: bool) -> tuple[str, ...]:
    """The mixes that a plan runs."""
    top = read_toml(plan)
    return tuple((top.need_table("quick") if quick else top).need("mixes", LIST))


def tier_points(plan: Path, study: Study) -> Iterator[TierPoint]:
    """The whole plan, in the order of the rows.

    Raises:
        ConfigError: the TOML file cannot be used.
        ValueError: a mix was not built.
    """
    top = read_toml(plan)
    quick = top.need_table("quick") if study.quick else None
    timing = timing_of(top.need_table("engine"), quick)
    seen: set[str] = set()
    for values in top.need("grid", TABLES):
        grid = TomlTable(values, plan, "grid")
        backend = grid.need("backend", choice("fast", "engine"))
        lists = {name: _list(grid, name, quick) for name in ("gpu", "cpu", "policies", "tier_policies", "gbps")}
        thresholds = _list(grid, "thresholds", quick, [1])
        names = list(study.mixes)
        if grid.get("hash_traces", SWITCH, False):
            names += [path.name for path in study.hash_traces]
        grid.close()
        for mix in names:
            for choices in product(*lists.values(), thresholds):
                point = _point(study, mix, backend, timing, choices)
                if (key := row_key(point.run)) not in seen:
                    seen.add(key)
                    yield point


DEFAULTS: dict[str, list[Any]] = {"policies": ["lru"], "tier_policies": ["lru"], "gbps": [DEVICE]}


def _list(grid: TomlTable, name: str, quick: TomlTable | None, default: list[Any] | None = None) -> list[Any]:
    values: list[Any] = grid.get(name, LIST, DEFAULTS.get(name, default))
    if values is None:
        grid.need(name, LIST)
    if quick is None or name not in quick:
        return values
    kept = [value for value in values if value in quick.need(name, LIST)]
    return kept or values[:1]


def _point(study: Study, mix: str, backend: str, timing: Timing, choices: tuple[Any, ...]) -> TierPoint:
    """A point of choices of gpu, cpu, policy, policy of CPU memory, bandwidth and threshold."""
    gpu, cpu, policy, tier_policy, gbps, threshold = choices
    trace = study.trace(mix)
    if not trace.is_file():
        raise ValueError(f"no {trace}; first run milestone3_code/build_mixes.py")
    if backend == "engine":
        trace = study.stationary(mix, 0, timing)
    block_size = MAIN_BLOCK if mix in study.mixes else hash_block_size(trace)
    whole_mix, served = (
        blocks(path, study.model, block_size, raw_blocks=False).chains for path in (study.trace(mix), trace)
    )
    gpu_blocks = max(_share(gpu, block_size, whole_mix, study.model), int(served.need.max()))
    values: dict[str, Any] = {"model": study.model, "backend": backend, "block_size": block_size, "policy": policy}
    if backend == "engine":
        values |= {"device": timing.device, "warmup": warmup_share(trace, study.model, timing.warmup_s)}
    is_bound = policy == "belady"
    if cpu != NONE:
        cpu_blocks = max(_share(cpu, block_size, whole_mix, study.model), int(served.prompt.max()))
        if is_bound:
            gpu_blocks += cpu_blocks
        else:
            values["kv_offloading_size"] = cpu_blocks * block_size * kv_bytes_a_token(study.model) / 2**30
    if "kv_offloading_size" in values and backend == "engine":
        values |= {"offload_policy": tier_policy, "offload_store_threshold": threshold}
        values["offload_gbps"] = None if gbps == DEVICE else float(gbps)
    run = GridRun(trace, RunConfig(capacity_blocks=gpu_blocks, **values))
    return TierPoint(mix, gpu, cpu, gbps, is_bound, run, timing if backend == "engine" else None)


def _share(text: str, block_size: int, chains: Any, model: str) -> int:
    found = capacity_blocks(text, block_size, chains.working_set, model)
    assert found is not None  # a share is a number of blocks
    return found


def tier_rows(study: Study, point: TierPoint) -> list[Row]:
    """The row of a point."""
    row = make_row(point.run)
    marks: Row = {"experiment": "tiers", "mix": point.mix, "gpu": point.gpu, "cpu": point.cpu, "gbps": point.gbps}
    marks["bound"] = point.is_bound
    if point.timing is not None:
        marks |= {name: getattr(point.timing, name) for name in ("load", "seconds", "warmup_s")}
    data: Row = {"data": study.source(point.mix), "quick": study.quick}
    kept = {name: value for name, value in row.items() if name not in LEFT_OUT}
    return [marks | kept | data]


def run_tiers(
    plan: Path,
    study: Study,
    say: Callable[[str], None],
    jobs: int = -1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Computes the rows that are not there yet, the engine's first; arguments as those of study two's (run.py).

    Raises:
        ValueError: a mix was not built, or the plan cannot be used.
    """
    points = list(tier_points(plan, study))
    os.environ[TRACE_VARIABLE] = str(points[0].run.trace)  # vLLM chooses its platform when it is imported
    runs = [
        PlannedRun(
            key=row_key(point.run),
            code=_code(point.run.config),
            files=(study.results / FILE,),
            values=point,
            group=(0, place) if point.run.config.backend == "engine" else (1, point.mix),
        )
        for place, point in enumerate(points)
    ]
    study.results.mkdir(parents=True, exist_ok=True)
    run_grid(
        runs,
        partial(tier_rows, study),
        study.model,
        say,
        jobs,
        progress=progress,
        compilers=lambda missing: compilers([point.run for point in missing]),
    )


def _code(config: RunConfig) -> str:
    has_tier = config.kv_offloading_size is not None
    return row_code(config.backend, config.policy, None, False, has_tier, config.offload_policy)


def row_again(row: Row, trace: Path, model: str) -> Row:
    """A stored row computed again."""
    return {name: row[name] for name in MARKS if name in row} | make_row(GridRun(trace, config_of(row, model)))
