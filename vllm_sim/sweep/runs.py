"""One cell of a sweep: a trace under one setting, and the row that `vllm-sim replay` would put into summary.jsonl.

What cells share - the trace's tokens and records, its blocks at a block size - is read once and kept for the next cell
of the same process. Nothing is written.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.registry import find_policy
from vllm_sim.provenance import file_sha256, fingerprint, load_entry
from vllm_sim.replay.cache import serve_cache
from vllm_sim.replay.requests import cache_requests, raw_requests, retokenised_tokens
from vllm_sim.replay.rows import Row
from vllm_sim.replay.settings import BACKENDS, Settings
from vllm_sim.replay.summary import head, summarise
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised


class Cell(NamedTuple):
    """What one row is made from."""

    trace: Path
    settings: Settings
    whole_curve: bool = False
    """LRU at every capacity that rejects no request, in one row; the settings' capacity counts for nothing then."""
    asked: str | None = None
    """The capacity as it was asked for, which the row repeats."""


class Loaded(NamedTuple):
    """A trace as cells share it."""

    trace: TokenisedTrace
    records: list[Record]
    retokenised: list[int | None]


def run_cell(cell: Cell) -> Row:
    """The row of a cell.

    Returns:
        The fields of summary.jsonl; `cell`, the key of the cell (see `cell_key`); `code` (see `cell_code`); and
        `capacity`, as it was asked for. For a whole curve the fields that say what ran, with "all" for the capacity,
        and `curve` (see `curve_fields`).

    Raises:
        ValueError: the trace cannot be read, or does not go with the settings.
    """
    path, settings = cell.trace, cell.settings
    loaded = load(path, settings.model)
    key = {"cell": cell_key(cell), "code": cell_code(cell)} | ({} if cell.asked is None else {"capacity": cell.asked})
    if cell.whole_curve:
        return head(path, loaded.trace, settings) | curve_fields(cell) | key
    if settings.backend == "engine":
        run_engine = load_entry(BACKENDS["engine"])
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_engine(path, Path(folder), loaded.trace, loaded.records, settings, lambda done: None)
    else:
        requests, chains = blocks(path, settings.model, settings.block_size, settings.raw_blocks)
        outcome = serve_cache(requests, chains, loaded.records, settings)
    retokenised = None if settings.raw_blocks else loaded.retokenised
    return summarise(path, loaded.trace, outcome, settings, retokenised) | key


def cell_key(cell: Cell) -> str:
    """16 hexadecimal digits that stand for the trace's bytes and the settings.

    Of the model the folder's name counts and not where it is; of a latency table what is in it.
    """
    values = asdict(cell.settings) | {"whole_curve": cell.whole_curve}
    values["trace"] = load(cell.trace, cell.settings.model).trace.sha256
    values["model"] = Path(cell.settings.model).name
    table = cell.settings.latency_file
    values["latency_file"] = table and file_sha256(table)
    del values["timeline"]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def cell_code(cell: Cell) -> str:
    """A fingerprint of all code that the row of a cell comes from: its backend's and its policy's, and vLLM's version
    where vLLM runs. With the key it decides the row.
    """
    return fingerprint(run_cell, BACKENDS[cell.settings.backend], find_policy(cell.settings.policy))


def load(path: Path, model: str) -> Loaded:
    """A trace's tokens and records, from this process's memory if the file has not changed."""
    status = path.stat() if path.exists() else None
    return _load(path, model, status and (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=2)
def _load(path: Path, model: str, status: tuple[int, int] | None) -> Loaded:
    records = [record for _, record in iter_records(path)]
    trace = load_tokenised(path, model)
    return Loaded(trace, records, retokenised_tokens(trace, records))


def blocks(path: Path, model: str, block_size: int, raw_blocks: bool) -> tuple[Requests, Chains]:
    """A trace's requests and chains at a block size, from this process's memory if they were made last."""
    loaded = load(path, model)
    return _blocks(path, model, loaded.trace.sha256, block_size, raw_blocks)


@lru_cache(maxsize=4)
def _blocks(path: Path, model: str, sha256: str, block_size: int, raw_blocks: bool) -> tuple[Requests, Chains]:
    loaded = load(path, model)
    if raw_blocks:
        requests = raw_requests(path, loaded.trace, loaded.records, block_size)
    else:
        requests = cache_requests(loaded.trace, loaded.records, block_size)
    return requests, link(requests, block_size, raw=raw_blocks)


def curve_fields(cell: Cell) -> Row:
    """LRU's hits at every capacity as a step function: only the capacities are listed from which on there are more.

    Raises:
        ValueError: another backend or policy than the pass is exact for.
    """
    from vllm_sim.eviction.curve import lru_curve

    settings = cell.settings
    if settings.policy != "lru" or settings.policy_params or settings.backend != "fast":
        reason = f"policy {settings.policy}, backend {settings.backend}"
        raise ValueError(f"capacity all is exact for LRU alone, not for {reason}; allowed: lru, fast")
    requests, chains = blocks(cell.trace, settings.model, settings.block_size, settings.raw_blocks)
    curve = lru_curve(chains, requests.prompt_tokens, settings.block_size, settings.warmup)
    skipped = int(chains.need.size * settings.warmup)
    prompt_tokens, full_blocks = int(requests.prompt_tokens[skipped:].sum()), int(chains.prompt[skipped:].sum())
    kept = [0]
    kept += [i for i in range(1, len(curve.hit_tokens)) if curve.hit_tokens[i] != curve.hit_tokens[i - 1]]
    return {
        "capacity_blocks": "all",
        "capacity_tokens": "all",
        "requests": int(chains.need.size),
        "warmup_requests": skipped,
        "working_set_blocks": chains.working_set,
        "prompt_tokens": prompt_tokens,
        "curve": {
            "capacity_blocks": curve.capacity_blocks[kept].tolist(),
            "token_hit_rate": [round(int(n) / max(1, prompt_tokens), 6) for n in curve.hit_tokens[kept]],
            "block_hit_rate": [round(int(n) / max(1, full_blocks), 6) for n in curve.hit_blocks[kept]],
            "request_hit_rate": [round(float(rate), 6) for rate in curve.request_hit_rate[kept]],
        },
    }
