"""A run of a grid: a trace under one configuration, and the row that `vllm-sim replay` would put into summary.jsonl.

What runs share - the trace's tokens and records, its blocks at a block size - is read once and kept for the next run
of the same process. Nothing is written.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from vllm_sim.eviction.registry import find_policy
from vllm_sim.provenance import fingerprint
from vllm_sim.replay import run as replay_run
from vllm_sim.replay.config import BACKENDS, RunConfig
from vllm_sim.replay.rows import Curve, Row, RunSummary
from vllm_sim.replay.run import Linked, Loaded


class Cell(NamedTuple):
    """What one row is made from."""

    trace: Path
    config: RunConfig
    asked: str | None = None
    """The capacity as the command had it, which the row repeats."""


def run_cell(cell: Cell) -> Row:
    """The row of a cell.

    Returns:
        The fields of summary.jsonl; `cell` (see `cell_key`); `code` (see `cell_code`); and `capacity`, as it was given.
        With the capacity `all` the fields that say what ran, and `curve`.

    Raises:
        ValueError: the trace cannot be read, or does not go with the configuration.
    """
    path, config = cell.trace, cell.config
    loaded = load(path, config.model)
    if config.is_curve:
        summary = curve_summary(path, config)
    else:
        linked = None
        if config.backend != "engine":
            linked = blocks(path, config.model, config.block_size, config.raw_blocks)
        summary = replay_run.run(loaded, config, linked).summary
    key = {"cell": cell_key(cell), "code": cell_code(cell)} | ({} if cell.asked is None else {"capacity": cell.asked})
    return summary.to_row() | key


def cell_key(cell: Cell) -> str:
    """16 hexadecimal digits that stand for the trace's bytes and the configuration.

    Of the model the folder's name counts and not where it is.
    """
    values: dict[str, Any] = cell.config.values()
    values["trace"] = load(cell.trace, cell.config.model).trace.sha256
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def cell_code(cell: Cell) -> str:
    """A fingerprint of all code that the row of a cell comes from: its backend's and its policy's, and vLLM's version
    where vLLM runs. With the key it decides the row.
    """
    return fingerprint(run_cell, BACKENDS[cell.config.backend], find_policy(cell.config.policy))


def load(path: Path, model: str) -> Loaded:
    """A trace's tokens and records, from this process's memory if the file has not changed."""
    status = path.stat() if path.exists() else None
    return _load(path, model, status and (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=2)
def _load(path: Path, model: str, status: tuple[int, int] | None) -> Loaded:
    return replay_run.load(path, model)


def blocks(path: Path, model: str, block_size: int, raw_blocks: bool) -> Linked:
    """A trace's requests and chains at a block size, from this process's memory if they were made last."""
    return _blocks(path, model, load(path, model).trace.sha256, block_size, raw_blocks)


@lru_cache(maxsize=4)
def _blocks(path: Path, model: str, sha256: str, block_size: int, raw_blocks: bool) -> Linked:
    return replay_run.link_blocks(load(path, model), block_size, raw_blocks)


def curve_summary(path: Path, config: RunConfig) -> RunSummary:
    """LRU's hits at every capacity as a step function: only the capacities are listed from which on there are more."""
    from vllm_sim.eviction.curve import lru_curve

    trace = load(path, config.model).trace
    requests, chains = blocks(path, config.model, config.block_size, config.raw_blocks)
    curve = lru_curve(chains, requests.prompt_tokens, config.block_size, config.warmup)
    skipped = int(chains.need.size * config.warmup)
    prompt_tokens, full_blocks = int(requests.prompt_tokens[skipped:].sum()), int(chains.prompt[skipped:].sum())
    kept = [0]
    kept += [i for i in range(1, len(curve.hit_tokens)) if curve.hit_tokens[i] != curve.hit_tokens[i - 1]]
    return RunSummary(
        trace=path.name,
        trace_sha256=trace.sha256,
        config=config,
        capacity_tokens="all",
        requests=int(chains.need.size),
        warmup_requests=skipped,
        working_set_blocks=chains.working_set,
        prompt_tokens=prompt_tokens,
        curve=Curve(
            capacity_blocks=curve.capacity_blocks[kept].tolist(),
            token_hit_rate=[round(int(n) / max(1, prompt_tokens), 6) for n in curve.hit_tokens[kept]],
            block_hit_rate=[round(int(n) / max(1, full_blocks), 6) for n in curve.hit_blocks[kept]],
            request_hit_rate=[round(float(rate), 6) for rate in curve.request_hit_rate[kept]],
        ),
    )
