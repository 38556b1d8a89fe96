"""A run of a sweep: a trace under one configuration, and the row that `vllm-sim replay` would put into summary.jsonl.

What runs share - the trace's tokens and records, its blocks at a block size - is read once and kept for the next run
of the same process. Nothing is written.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.compiled import is_compiled
from vllm_sim.eviction.registry import find_policy
from vllm_sim.eviction.simulate import simulate
from vllm_sim.fleet.registry import find_router
from vllm_sim.provenance import Maker, fingerprint
from vllm_sim.replay import run as replay_run
from vllm_sim.replay.backends import BACKENDS, CACHE_OF_GROUPS, TIERS
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.rows import Curve, Row, RunSummary
from vllm_sim.replay.run import Linked, Loaded, tier_version
from vllm_sim.sweep.units import Traffic, traffic_of

traffics: dict[str, Traffic] = {}
"""What each trace brings that this process has read, by its SHA-256."""


class GridRun(NamedTuple):
    """What one row is made from."""

    trace: Path
    config: RunConfig
    capacity: str | None = None
    """As the command had it, which the row repeats."""

    def __str__(self) -> str:
        config = self.config
        fleet = f"replicas {config.replicas}, router {config.router}, " if config.replicas > 1 else ""
        return (
            f"policy {config.policy}, parameters {config.policy_params}, "
            f"capacity_blocks {config.capacity_blocks or 'unlimited'}, "
            f"block size {config.block_size}, seed {config.seed}, {fleet}trace {self.trace}"
        )


def make_row(run: GridRun) -> Row:
    """The row of a run.

    Returns:
        The fields of summary.jsonl, and `capacity`, as it was given. With the capacity `all` the fields that say what
        ran, and `curve`.

    Raises:
        ValueError: the trace cannot be read, or does not go with the configuration.
    """
    path, config = run.trace, run.config
    loaded = load(path, config.model)
    if config.is_curve:
        replay_run.check_layers(config)
        summary = curve_summary(path, config)
    else:
        linked = None
        if config.backend != "engine":
            linked = blocks(path, config.model, config.block_size, config.raw_blocks)
        summary = replay_run.run(loaded, config, linked).summary
    return summary.to_row() | ({} if run.capacity is None else {"capacity": run.capacity})


def row_key(run: GridRun) -> str:
    """16 hexadecimal digits that stand for the trace's bytes and the configuration.

    Of the model the folder's name counts and not where it is.
    """
    values: dict[str, Any] = run.config.values()
    values["trace"] = load(run.trace, run.config.model).trace.sha256
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def row_code(
    backend: str,
    policy: str,
    router: str | None = None,
    has_groups: bool = False,
    has_tier: bool = False,
    offload_policy: str = "lru",
) -> str:
    """A fingerprint of all code that a row comes from: its backend's, its policy's and its router's, and vLLM's version
    where vLLM runs. With the key it decides the row.

    Args:
        backend: the row's.
        policy: the row's.
        router: the row's.
        has_groups: whether layers of its model keep less than every token; only then `fast` needs vLLM.
        has_tier: whether blocks are kept in CPU memory too.
        offload_policy: what evicts chunks from there; `lru` and `arc` are vLLM's own.

    Raises:
        ValueError: `fast` has no CPU memory as the installed vLLM has it.
    """
    is_reached = backend in CACHE_OF_GROUPS and (has_groups or backend != "fast")
    more: list[Maker] = [CACHE_OF_GROUPS[backend]] if is_reached else []
    more += [TIERS[tier_version()]] if has_tier and backend == "fast" else []
    more += [] if offload_policy in ("lru", "arc") else [find_policy(offload_policy.partition("{")[0])]
    of_router = [] if router is None else [find_router(router)]
    return fingerprint(make_row, BACKENDS[backend], *more, find_policy(policy), *of_router)


def code_of(row: Row) -> str | None:
    """What `row_code` is today for a stored row; None if its policy or router cannot be found."""
    try:
        parts = "cache_groups" in row, "kv_offloading_size" in row
        return row_code(row["backend"], row["policy"], row.get("router"), *parts, row.get("offload_policy", "lru"))
    except Exception:  # a policy's module is the user's, as a router's
        return None


def compilers(runs: Sequence[GridRun]) -> list[Callable[[], None]]:
    """What compiles the kernel of each policy of these runs, once for all processes: numba keeps it on the disk."""
    wanted = {
        (run.config.policy, json.dumps(run.config.policy_params)): partial(_compile, run.config)
        for run in runs
        if run.config.backend == "fast" and not run.config.is_curve
    }
    return list(wanted.values())


def _compile(config: RunConfig) -> None:
    """Runs a request of one block."""
    if not is_compiled(find_policy(config.policy)):
        return
    one, none = np.ones(1, np.int64), np.zeros(1, np.int64)
    chains = link(Requests(none, np.array([0, 1]), one, one, none, none), 1)
    with suppress(ValueError):  # the run itself raises it, with its name
        simulate(chains, config.policy, 1, config.policy_params)


def load(path: Path, model: str | None) -> Loaded:
    """A trace's tokens and records, from this process's memory if the file has not changed."""
    status = path.stat() if path.exists() else None
    return _load(path, model, status and (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=2)
def _load(path: Path, model: str | None, status: tuple[int, int] | None) -> Loaded:
    loaded = replay_run.load(path, model)
    tokens = int(loaded.trace.prompt_lengths.sum() + loaded.trace.response_lengths.sum())
    traffics[loaded.trace.sha256] = traffic_of(loaded.records, tokens)
    return loaded


def traffic(path: Path, model: str | None) -> Traffic:
    """What a trace brings."""
    return traffics[load(path, model).trace.sha256]


def blocks(path: Path, model: str | None, block_size: int, raw_blocks: bool) -> Linked:
    """A trace's requests and chains at a block size, from this process's memory if they were made last."""
    return _blocks(path, model, load(path, model).trace.sha256, block_size, raw_blocks)


@lru_cache(maxsize=4)
def _blocks(path: Path, model: str | None, sha256: str, block_size: int, raw_blocks: bool) -> Linked:
    return replay_run.link_blocks(load(path, model), block_size, raw_blocks)


def curve_summary(path: Path, config: RunConfig) -> RunSummary:
    """LRU's hits at every capacity as a step function: only the capacities are listed from which on there are more."""
    from vllm_sim.eviction.miss_ratio_curve import lru_curve

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
