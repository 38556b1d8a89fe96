"""Sweeps: many cells on all cores, each row appended to one file as it is finished.

A sweep that was stopped, however, goes on where it was: a row holds the key of its cell, and a line that a kill has cut
is cut off. A row that other code made is replaced when its cell is wanted again. When all cells are done the file is
sorted, so that two sweeps of the same cells give the same bytes.
"""

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed, parallel_config
from msgspec.structs import replace

from vllm_sim.eviction.policy import Room
from vllm_sim.eviction.registry import make_policy
from vllm_sim.provenance import about, commit
from vllm_sim.replay.config import ALL, RunConfig
from vllm_sim.replay.rows import Row, write_rows
from vllm_sim.sweep.capacity import capacity_blocks
from vllm_sim.sweep.lock import only_writer
from vllm_sim.sweep.results import cut_torn_line, in_order, read_rows, run_file, whole_bytes
from vllm_sim.sweep.runs import Cell, blocks, cell_code, cell_key, run_cell
from vllm_sim.trace.files import open_output
from vllm_sim.vllm_version import VersionError

Progress = Callable[[int, int], None]
_CELLS_A_CORE = 4
"""In a batch for Ray, whose joblib backend gives results back only when a batch is done."""
_MARK = "cell"
"""A field that tells a sweep's rows from all others."""

_ROOM = Room(1000, 1000, uses=np.zeros(0, np.int64), first_use=np.zeros(1001, np.int64))
"""For trying a policy's parameters before a trace is read."""


def check_run(out: Path, traces: Iterable[Path], jobs: int) -> None:
    """What can be told before a trace is read; nothing is changed.

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
    whole_bytes(out, _MARK)


class Grid(NamedTuple):
    """What a sweep runs in all combinations; policy_params are an object for each policy that has some."""

    policies: Sequence[str]
    capacities: Sequence[str]
    """See capacity.py; `all` is taken by `lru` alone, and only one seed of it."""
    block_sizes: Sequence[int] = (16,)
    seeds: Sequence[int] = (0,)
    policy_params: Mapping[str, Any] = {}


def make_cells(traces: Sequence[Path], base: RunConfig, grid: Grid) -> list[Cell]:
    """Every combination once, those that share blocks one after the other.

    Args:
        traces: in the native format.
        base: what all cells have in common.
        grid: what they differ in.

    Raises:
        ValueError: a list is empty, a value is out of range or not for its policy, or `all` without `lru` or `fast`.
    """
    _check_grid(base, grid)
    cells: dict[str, Cell] = {}
    for trace in traces:
        for size in grid.block_sizes:
            working_set = blocks(trace, base.model, size, base.raw_blocks).chains.working_set
            for text in grid.capacities:
                for config in _configs(replace(base, block_size=size), text, working_set, grid):
                    cell = Cell(trace, config, asked=text)
                    cells[cell_key(cell)] = cell
    return list(cells.values())


def _configs(base: RunConfig, capacity: str, working_set_blocks: int, grid: Grid) -> Iterator[RunConfig]:
    if capacity == ALL:
        yield replace(base, capacity_blocks=ALL, seed=grid.seeds[0])
        return
    found = capacity_blocks(capacity, base.block_size, working_set_blocks, base.model)
    for policy in grid.policies:
        for seed in grid.seeds:
            params = grid.policy_params.get(policy, {})
            yield replace(base, capacity_blocks=found, policy=policy, policy_params=params, seed=seed)


def _check_grid(base: RunConfig, grid: Grid) -> None:
    lists = {
        "policies": grid.policies,
        "capacities": grid.capacities,
        "block-sizes": grid.block_sizes,
        "seeds": grid.seeds,
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
    for policy in grid.policies:
        params = grid.policy_params.get(policy, {})
        try:
            make_policy(policy, _ROOM, params)
        except ValueError:
            raise
        except Exception as error:
            raise ValueError(f"policy {policy}, parameters {params}: {_told(error)}") from error
    if ALL in grid.capacities and "lru" not in grid.policies:
        raise ValueError(f"capacity all needs the policy lru; --policies has {', '.join(grid.policies)}")
    if ALL in grid.capacities and base.backend != "fast":
        raise ValueError(f"capacity all needs the backend fast; --backend is {base.backend}")


def sweep(
    cells: Sequence[Cell],
    out: Path,
    jobs: int = -1,
    ray: str | None = None,
    progress: Progress = lambda done, total: None,
) -> list[Row]:
    """Runs the cells that `out` does not hold yet, and sorts the file when all are there.

    Args:
        cells: of `make_cells`.
        out: the file of rows; OUT.run.json beside it says what run took how long where.
        jobs: processes, -1 for one a core.
        ray: address of a Ray cluster (`auto`, `local` or ray://HOST:PORT) to run on; it must see the traces' paths.
        progress: called with the numbers of finished and of all cells.

    Returns:
        The rows of these cells, in the file's order.

    Raises:
        ValueError: as `check_run`, or `out` is being written by another run, or a cell cannot be run; finished rows
            stay in the file.
    """
    start, begun_at = time.monotonic(), commit()
    check_run(out, [cell.trace for cell in cells], jobs)
    with only_writer(out):
        cut_torn_line(out, _MARK)
        wanted = {cell_key(cell): cell for cell in cells}
        codes = {key: cell_code(cell) for key, cell in wanted.items()}
        there = [row for row in read_rows(out) if codes.get(row["cell"]) in (None, row.get("code"))]
        known = {row["cell"] for row in there}
        todo = [cell for key, cell in wanted.items() if key not in known]
        progress(len(wanted) - len(todo), len(wanted))
        fresh = []
        with out.open("a", encoding="utf-8") as file:
            for row in _on_ray(todo, ray) if ray else _here(todo, jobs):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                fresh.append(row)
                progress(len(wanted) - len(todo) + len(fresh), len(wanted))
        rows = in_order(there + fresh)
        write_rows(out, rows)
        if cells:
            values = about(cells[0].config.model, time.monotonic() - start, begun_at) | {"cells": len(fresh)}
            with open_output(run_file(out)) as file:
                file.write(json.dumps(values, indent=2) + "\n")
    return [row for row in rows if row["cell"] in wanted]


def _run_named(cell: Cell) -> Row:
    """The row of a cell.

    Raises:
        ValueError: it cannot be run, with what tells it from the others.
        VersionError: as `run_cell`; it holds for all cells.
    """
    try:
        return run_cell(cell)
    except VersionError:
        raise
    except Exception as error:
        config = cell.config
        where = (
            f"policy {config.policy}, parameters {config.policy_params}, "
            f"capacity_blocks {config.capacity_blocks or 'unlimited'}, "
            f"block size {config.block_size}, seed {config.seed}, trace {cell.trace}"
        )
        raise ValueError(f"{where}: {_told(error)}") from error


def _told(error: Exception) -> str:
    """An error in one line; one that is no ValueError has no message for users, so its kind and place are told too."""
    if isinstance(error, ValueError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})"


def _here(cells: Sequence[Cell], jobs: int) -> Iterable[Row]:
    return Parallel(n_jobs=jobs, return_as="generator_unordered")(delayed(_run_named)(cell) for cell in cells)


def _on_ray(cells: Sequence[Cell], address: str) -> Iterator[Row]:
    """Through joblib's Ray backend, whose workers keep their process, and with it a trace, from batch to batch."""
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ValueError(f"--ray {address} needs Ray ({error}); `pip install 'vllm-sim[ray]'` brings it") from None
    ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
    try:
        register_ray()
        size = _CELLS_A_CORE * max(1, int(ray.cluster_resources().get("CPU", 1)))
        for first in range(0, len(cells), size):
            with parallel_config(backend="ray", n_jobs=-1):
                yield from Parallel()(delayed(_run_named)(cell) for cell in cells[first : first + size])
    finally:
        ray.shutdown()
