"""One run: a trace in, an outcome and its summary out, by one of three backends; and the files of a replay.

`engine` drives vLLM's EngineCore in virtual time; `blockpool` vLLM's KV-cache manager, one request after the other;
`fast` the compiled kernel of `vllm_sim.eviction`. What a backend needs is imported when it is used.

    requests.jsonl    a row for each request (rows.RequestResult), in the trace's order
    summary.jsonl     one row (rows.RunSummary), which begins with what ran (config.RunConfig)
    sessions.jsonl    a row for each session (rows.SessionResult)
    evictions.jsonl   engine: who evicted whom (evictions.py), in blocks
    blocks.jsonl      engine: lifetimes of blocks (engine/lifetimes.py)
    run.json          seconds of wall time, host, versions: what differs from run to run
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

import vllm_sim
from vllm_sim.engine.compat import found_version, installed_version
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.registry import find_policy
from vllm_sim.eviction.simulate import Run
from vllm_sim.replay.breakdown import Blocks, breakdown
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Labels, Outcome, Totals, labels_of, request_results
from vllm_sim.replay.requests import cache_requests, raw_requests, retokenised_tokens
from vllm_sim.replay.rows import PARTIAL, RequestResult, RunSummary, write_rows
from vllm_sim.replay.summary import session_results, summarise
from vllm_sim.trace.files import iter_records, open_output
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised


class Loaded(NamedTuple):
    """A trace as runs read it; many may share it."""

    path: Path
    trace: TokenisedTrace
    records: Sequence[Record]
    labels: Labels
    retokenised: Sequence[int | None]


class Linked(NamedTuple):
    """A trace's blocks at a block size, which the backends without a schedule read; many runs may share them."""

    requests: Requests
    chains: Chains


class Result(NamedTuple):
    """What came of a run."""

    summary: RunSummary
    outcome: Outcome


def load(path: Path, model: str) -> Loaded:
    """Reads a trace.

    Raises:
        TraceError: a row lacks what the tokeniser needs.
        ValueError: the model has no tokenizer.
    """
    records = [record for _, record in iter_records(path)]
    trace = load_tokenised(path, model)
    return Loaded(path, trace, records, labels_of(records), retokenised_tokens(trace, records))


def link_blocks(loaded: Loaded, block_size: int, raw_blocks: bool) -> Linked:
    """Links a trace's blocks.

    Raises:
        TraceError: raw blocks, and a row without hash ids of this block size.
    """
    if raw_blocks:
        requests = raw_requests(loaded.path, loaded.trace, loaded.records, block_size)
    else:
        requests = cache_requests(loaded.trace, loaded.records, block_size)
    return Linked(requests, link(requests, block_size, raw=raw_blocks))


def run(
    loaded: Loaded,
    config: RunConfig,
    linked: Linked | None = None,
    progress: Callable[[int], None] = lambda done: None,
    on_result: Callable[[RequestResult], None] | None = None,
    timeline: Path | None = None,
) -> Result:
    """Runs a trace; nothing is written but the timeline.

    Args:
        loaded: the trace.
        config: how.
        linked: `link_blocks` of the trace, where it is there already; the engine needs none.
        progress: called with the number of finished requests.
        on_result: engine: called with each request as it ends.
        timeline: engine: where a trace for Perfetto is written.

    Raises:
        TraceError: a row lacks what the backend needs.
        ValueError: a value of the configuration does not go with the trace.
        VersionError: the backend needs vLLM, which is not installed or too old.
    """
    if timeline is not None and config.backend != "engine":
        raise ValueError(f"backend {config.backend} has no time to draw a timeline of; allowed: engine")
    if config.backend == "engine":
        from vllm_sim.replay.engine_backend import run_engine

        return run_engine(loaded, config, progress, on_result, timeline)
    linked = linked or link_blocks(loaded, config.block_size, config.raw_blocks)
    retokenised = None if config.raw_blocks else loaded.retokenised
    outcome = serve(linked, loaded.records, loaded.labels, config, retokenised)
    progress(len(loaded.records))
    return Result(summarise(config, loaded.path.name, loaded.trace.sha256, outcome), outcome)


def serve(
    linked: Linked,
    records: Sequence[Record],
    labels: Labels,
    config: RunConfig,
    retokenised: Sequence[int | None] | None = None,
) -> Outcome:
    """What `fast` or `blockpool` make of requests, one after the other.

    Args:
        linked: the requests' blocks.
        records: the requests.
        labels: theirs.
        config: how.
        retokenised: as `Loaded` has it.
    """
    if config.backend == "fast":
        from vllm_sim.eviction.simulate import simulate as serve_chains
    else:
        installed_version()
        from vllm_sim.engine.blockpool import run as serve_chains
    found = serve_chains(linked.chains, config.policy, config.blocks, config.policy_params, config.seed)
    return outcome_of(found, linked, records, labels, config, retokenised)


def outcome_of(
    found: Run,
    linked: Linked,
    records: Sequence[Record],
    labels: Labels,
    config: RunConfig,
    retokenised: Sequence[int | None] | None = None,
) -> Outcome:
    """What a backend without a schedule found, in tokens; arguments as those of `serve`."""
    requests, chains = linked
    blocks = Blocks(found.hit, found.hit_generated, found.cold, found.missed)
    return Outcome(
        records=records,
        labels=labels,
        block_size=config.block_size,
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens * ~found.rejected,
        rejected=found.rejected,
        parts=breakdown(blocks, requests.prompt_tokens, config.block_size, config.raw_blocks),
        evicted_by=found.evicted_by,
        blocks_allocated=found.allocated,
        totals=Totals(chains.working_set, found.evicted_blocks, found.orphan_blocks),
        retokenised=retokenised,
    )


def replay(
    path: Path,
    out: Path,
    config: RunConfig,
    progress: Callable[[int, int], None] = lambda done, total: None,
    timeline: Path | None = None,
) -> RunSummary:
    """Replays a trace and writes the files of the run.

    Args:
        path: The trace.
        out: Folder for the files. While the engine runs it holds requests.partial.jsonl too, to which each finished
            request is appended: it stays after a kill.
        config: How.
        progress: Called with the numbers of finished and of all requests.
        timeline: Engine: where a trace for Perfetto is written.

    Raises:
        TraceError, ValueError, VersionError: as `load` and `run`.
    """
    start = time.monotonic()
    find_policy(config.policy)  # an unknown one need not wait for vLLM
    loaded = load(path, config.model)
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        keep: Callable[[RequestResult], None] | None = None
        if config.backend == "engine":
            keep = partial(_append, stack.enter_context((out / PARTIAL).open("wb", buffering=0)))

        summary, outcome = run(loaded, config, None, lambda done: progress(done, len(loaded.records)), keep, timeline)
    write_rows(out / "requests.jsonl", request_results(outcome))
    write_rows(out / "sessions.jsonl", session_results(outcome, config.warmup))
    for name, rows in outcome.files.items():
        write_rows(out / name, rows)
    write_rows(out / "summary.jsonl", [summary.to_row()])
    with open_output(out / "run.json") as text:
        text.write(json.dumps(about(config, time.monotonic() - start), indent=2) + "\n")
    (out / PARTIAL).unlink(missing_ok=True)
    return summary


def _append(file: BinaryIO, row: RequestResult) -> None:
    file.write(msgspec.json.encode(row) + b"\n")


def about(config: RunConfig, seconds: float) -> dict[str, Any]:
    """What differs from run to run: wall time, host, versions; vllm is None where it is not installed."""
    return {
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "vllm": found_version(),
        "vllm_sim": vllm_sim.__version__,
        "model": config.model,
    }
