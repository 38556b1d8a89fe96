"""Sweeps: all policies, capacities, sizes of CPU memory, fleets, block sizes and seeds, combined, over traces, into one
file of rows.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from msgspec.structs import replace

from vllm_sim.eviction.names import full_name
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import make_policy
from vllm_sim.fleet.names import DEFAULT
from vllm_sim.fleet.registry import make_router
from vllm_sim.fleet.router import RouterContext
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.config_checks import ALL, TIER_DEFAULTS
from vllm_sim.replay.rows import Row
from vllm_sim.replay.run import check_layers, has_groups
from vllm_sim.sweep.capacity import capacity_blocks
from vllm_sim.sweep.processes import one_line
from vllm_sim.sweep.results import read_rows, whole_bytes
from vllm_sim.sweep.runner import PlannedRun, run_grid
from vllm_sim.sweep.runs import GridRun, blocks, code_of, compilers, make_row, row_code, row_key

_TRIAL = PolicyContext(1000, 1000, uses=np.zeros(0, np.int64), first_use=np.zeros(1001, np.int64))
"""For trying a policy's parameters before a trace is read."""


def check_run(out: Path, traces: Iterable[Path], jobs: int) -> None:
    """What can be checked before a trace is read; nothing is changed.

    Raises:
        ValueError: jobs is out of range; or `out` is one of the traces, is packed, or holds something else than a
            sweep's rows.
    """
    if jobs < 1 and jobs != -1:
        raise ValueError(f"--jobs is {jobs}; allowed: 1 or more, or -1 for one a core")
    if out.suffix in (".gz", ".zst"):
        raise ValueError(f"--out is {out}; allowed: a file that is not packed, since rows are appended to it")
    if not out.exists():
        return
    for trace in traces:
        if trace.exists() and out.samefile(trace):
            raise ValueError(f"--out is {out}, which is the trace {trace}; allowed: a file of its own for the rows")
    if not out.is_file():
        raise ValueError(f"--out is {out}, which is no file; allowed: a file of a sweep's rows, or a new one")
    whole_bytes(out, of_studies=False)


class Grid(NamedTuple):
    """What a sweep runs in all combinations; policy_params are an object for each policy that has some."""

    policies: Sequence[str]
    capacities: Sequence[str]
    """See capacity.py; `all` is taken by `lru` alone, and only one seed of it."""
    block_sizes: Sequence[int] = (16,)
    seeds: Sequence[int] = (0,)
    policy_params: Mapping[str, Any] = {}
    replicas: Sequence[int] = (1,)
    routers: Sequence[str] = (DEFAULT,)
    """Of more than one replica; with one no router has a choice, and it is run once."""
    router_params: Mapping[str, Any] = {}
    """An object for each router that has some."""
    kv_offloading_sizes: Sequence[float | None] = (None,)
    """GiB of CPU memory; None: there is none, and the other settings of it have nothing to do."""


def make_runs(traces: Sequence[Path], base: RunConfig, grid: Grid) -> list[GridRun]:
    """Every combination once, those that share blocks one after the other.

    Args:
        traces: in the native format.
        base: what all runs have in common.
        grid: what they differ in.

    Raises:
        ValueError: a list is empty, a value is out of range or not for its policy, or `all` without `lru` or `fast`.
    """
    grid = grid._replace(
        policies=[full_name(name) for name in grid.policies],
        policy_params={full_name(name): params for name, params in grid.policy_params.items()},
    )
    _check_grid(base, grid)
    check_layers(base)
    runs: dict[str, GridRun] = {}
    for trace in traces:
        for size in grid.block_sizes:
            working_set = blocks(trace, base.model, size, base.raw_blocks).chains.working_set
            for text in grid.capacities:
                for gib in grid.kv_offloading_sizes:
                    tier = TIER_DEFAULTS if gib is None else {"kv_offloading_size": gib}
                    for config in _configs(replace(base, block_size=size, **tier), text, working_set, grid):
                        run = GridRun(trace, config, text)
                        runs[row_key(run)] = run
    return list(runs.values())


def _configs(base: RunConfig, capacity: str, working_set_blocks: int, grid: Grid) -> Iterator[RunConfig]:
    if capacity == ALL:
        for replicas in grid.replicas:
            yield replace(base, capacity_blocks=ALL, replicas=replicas, seed=grid.seeds[0])
        return
    found = capacity_blocks(capacity, base.block_size, working_set_blocks, base.model)
    for policy, replicas, router, seed in product(grid.policies, grid.replicas, grid.routers, grid.seeds):
        yield replace(
            base,
            capacity_blocks=found,
            policy=policy,
            policy_params=grid.policy_params.get(policy, {}),
            replicas=replicas,
            router=router,
            router_params=grid.router_params.get(router, {}),
            seed=seed,
        )


def _check_grid(base: RunConfig, grid: Grid) -> None:
    lists = {
        "policies": grid.policies,
        "capacities": grid.capacities,
        "block-sizes": grid.block_sizes,
        "seeds": grid.seeds,
        "replicas": grid.replicas,
        "routers": grid.routers,
        "kv-offloading-sizes": grid.kv_offloading_sizes,
    }
    for name, values in lists.items():
        if not values:
            raise ValueError(f"--{name} is empty; allowed: one value or more, separated by commas")
    for size in grid.block_sizes:
        if size < 1:
            raise ValueError(f"--block-sizes has {size}; allowed: 1 or more")
    for name, params in grid.policy_params.items():
        if name not in grid.policies:
            raise ValueError(f"--policy-params has {name!r}; allowed: {', '.join(grid.policies)}, as in --policies")
        if not isinstance(params, dict):
            raise ValueError(f"--policy-params has {params!r} for {name}; allowed: an object of its parameters")
    for name, params in grid.router_params.items():
        if name not in grid.routers:
            raise ValueError(f"--router-params has {name!r}; allowed: {', '.join(grid.routers)}, as in --routers")
        if not isinstance(params, dict):
            raise ValueError(f"--router-params has {params!r} for {name}; allowed: an object of its parameters")
    for router in grid.routers:
        make_router(router, RouterContext(2, 16), grid.router_params.get(router, {}))
    for policy in grid.policies:
        params = grid.policy_params.get(policy, {})
        try:
            make_policy(policy, _TRIAL, params)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"policy {policy}, parameters {params}: {one_line(error)}") from error
    if ALL in grid.capacities and "lru" not in grid.policies:
        raise ValueError(f"capacity all needs the policy lru; --policies has {', '.join(grid.policies)}")
    if ALL in grid.capacities and base.backend != "fast":
        raise ValueError(f"capacity all needs the backend fast; --backend is {base.backend}")


def _rows_of(run: GridRun) -> list[Row]:
    return [make_row(run)]


def sweep(
    runs: Sequence[GridRun],
    out: Path,
    jobs: int = -1,
    ray: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Row]:
    """Computes the rows that `out` does not hold yet (runner.py); rows of other grids stay.

    Args:
        runs: of `make_runs`.
        out: the file of rows; OUT.run.json next to it says what run took how long.
        jobs: processes, -1 for one a core.
        ray: address of a Ray cluster (`auto`, `local` or ray://HOST:PORT) to run on; it must see the traces' paths.
        progress: called with the numbers of finished and of all runs.
        say: called with lines that say what happens.

    Returns:
        The rows of these runs, in the file's order.

    Raises:
        ValueError: as `check_run`, or `out` is being written by another run, or a run cannot be computed; finished
            rows stay in the file.
    """
    if not runs:
        return []
    check_run(out, [run.trace for run in runs], jobs)
    plan = [
        PlannedRun(
            key=row_key(run),
            code=row_code(
                run.config.backend,
                run.config.policy,
                run.config.router,
                has_groups(run.config),
                run.config.kv_offloading_size is not None,
                run.config.offload_policy,
            ),
            files=(out,),
            values=run,
            group=(str(run.trace), run.config.block_size),
        )
        for run in runs
    ]
    model = runs[0].config.model
    are_forks = all(run.config.backend == "fast" for run in runs)
    run_grid(plan, _rows_of, model, say, jobs, ray, progress, code_of=code_of, compilers=compilers, are_forks=are_forks)
    keys = {run.key for run in plan}
    return [row for row in read_rows(out) if row["key"] in keys]
