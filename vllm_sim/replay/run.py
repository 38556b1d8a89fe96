"""One run: a trace in, the files of a run out, by one of three backends.

`engine` drives vLLM's EngineCore in virtual time; `blockpool` vLLM's KV-cache manager, one request after the other;
`fast` the compiled kernel of `vllm_sim.eviction`. What a backend needs is imported when it is used.

    requests.jsonl    a row for each request (rows.py), in the trace's order
    summary.jsonl     one row (summary.py), which begins with what ran: trace (file name), trace_sha256, backend,
                      policy, policy_params, capacity_blocks (usable ones, null: unlimited), capacity_tokens,
                      block_size (tokens), raw_blocks, seed
    sessions.jsonl    session_id, workload, tenant, and the counts and rates of each session
    evictions.jsonl   engine: who evicted whom (evictions.py), in blocks
    blocks.jsonl      engine: lifetimes of blocks (engine/lifetimes.py)
    run.json          seconds of wall time, host, versions: what differs from run to run
"""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import vllm_sim
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.registry import find_policy
from vllm_sim.replay.requests import cache_requests, raw_requests, retokenised_tokens
from vllm_sim.replay.rows import PARTIAL, Found, Outcome, Row, generated_blocks, request_row, write_rows
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.summary import session_rows, summary_row
from vllm_sim.replay.virtual import run_engine
from vllm_sim.trace.files import iter_records, open_output
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised
from vllm_sim.vllm_version import found_version, installed_version


def replay(
    path: Path, out: Path, settings: Settings, progress: Callable[[int, int], None] = lambda done, total: None
) -> Row:
    """Replays a trace and writes the files of the run.

    Args:
        path: The trace.
        out: Folder for summary.jsonl, requests.jsonl (the rows in the trace's order), sessions.jsonl and run.json; from
            the engine evictions.jsonl and blocks.jsonl too, and while it runs requests.partial.jsonl, to which each
            finished request is appended: it stays after a kill.
        settings: How.
        progress: Called with the numbers of finished and of all requests.

    Returns:
        The summary row.

    Raises:
        TraceError: a row lacks what the mode needs.
        ValueError: a setting is out of range.
        VersionError: the backend needs vLLM, which is not installed or too old.
    """
    start = time.monotonic()
    find_policy(settings.policy)  # an unknown one need not wait for vLLM
    records = [record for _, record in iter_records(path)]
    trace = load_tokenised(path, settings.model)
    out.mkdir(parents=True, exist_ok=True)
    run = run_engine if settings.backend == "engine" else run_cache
    outcome = run(path, out, trace, records, settings, lambda done: progress(done, len(records)))
    rows = outcome.rows
    retokenised = None if settings.raw_blocks else retokenised_tokens(trace, records)
    summary = summarise(path, trace, outcome, settings, retokenised)
    write_rows(out / "requests.jsonl", rows)
    write_rows(out / "sessions.jsonl", session_rows(rows, settings.block_size, settings.warmup))
    for name, values in outcome.files.items():
        write_rows(out / name, values)
    write_rows(out / "summary.jsonl", [summary])
    with open_output(out / "run.json") as file:
        file.write(json.dumps(about(settings, time.monotonic() - start), indent=2) + "\n")
    (out / PARTIAL).unlink(missing_ok=True)
    return summary


def summarise(
    path: Path, trace: TokenisedTrace, outcome: Outcome, settings: Settings, retokenised: Sequence[int | None] | None
) -> Row:
    """The summary row of a run.

    Args:
        path: The trace.
        trace: Its tokens.
        outcome: What the backend gave; its rows get the retokenised tokens.
        settings: How it ran.
        retokenised: `retokenised_tokens` of the trace, None for raw blocks.
    """
    if retokenised is not None:
        for row, tokens in zip(outcome.rows, retokenised, strict=True):
            row["retokenised_tokens"] = tokens
    counts = summary_row(outcome.rows, settings.block_size, settings.warmup)
    return head(path, trace, settings) | counts | outcome.tail


def run_cache(
    path: Path,
    out: Path,
    trace: TokenisedTrace,
    records: Sequence[Record],
    settings: Settings,
    progress: Callable[[int], None],
) -> Outcome:
    """One request after the other: `fast` in the compiled kernel, `blockpool` in vLLM's own KV-cache manager."""
    if settings.raw_blocks:
        requests = raw_requests(path, trace, records, settings.block_size)
    else:
        requests = cache_requests(trace, records, settings.block_size)
    chains = link(requests, settings.block_size, raw=settings.raw_blocks)
    outcome = serve_cache(requests, chains, records, settings)
    progress(len(records))
    return outcome


def serve_cache(requests: Requests, chains: Chains, records: Sequence[Record], settings: Settings) -> Outcome:
    """What `fast` or `blockpool` make of requests and their chains, which many runs may share."""
    if settings.backend == "fast":
        from vllm_sim.eviction.simulate import simulate as serve
    else:
        installed_version()
        from vllm_sim.engine.blockpool import run as serve
    run = serve(chains, settings.policy, settings.capacity_blocks, settings.policy_params, settings.seed)
    rows = []
    for row, record in enumerate(records):
        evictor = int(run.evicted_by[row])
        found = Found(
            hit=int(run.hit[row]),
            hit_generated=int(run.hit_generated[row]),
            cold=int(run.cold[row]),
            evicted=int(run.missed[row]),
            evicted_by=None if evictor < 0 else evictor,
            allocated=int(run.allocated[row]),
        )
        rejected = bool(run.rejected[row])
        prompt, output = int(requests.prompt_tokens[row]), 0 if rejected else int(requests.output_tokens[row])
        values = request_row(row, record, prompt, output, settings.block_size, rejected, found, settings.raw_blocks)
        rows.append(values)
    tail = {
        "working_set_blocks": chains.working_set,
        "evicted_blocks": run.evicted_blocks,
        "orphan_blocks": run.orphan_blocks,
    }
    if not settings.raw_blocks:
        tail |= generated_blocks(records)
    return Outcome(rows, tail, {})


def head(path: Path, trace: TokenisedTrace, settings: Settings) -> Row:
    """The fields of a summary row that say what ran."""
    return {
        "trace": path.name,
        "trace_sha256": trace.sha256,
        "backend": settings.backend,
        "policy": settings.policy,
        "policy_params": settings.policy_params,
        "capacity_blocks": settings.capacity_blocks,
        "capacity_tokens": settings.capacity_blocks and settings.capacity_blocks * settings.block_size,
        "block_size": settings.block_size,
        "raw_blocks": settings.raw_blocks,
        "seed": settings.seed,
    }


def about(settings: Settings, seconds: float) -> Row:
    """What differs from run to run: wall time, host, versions; vllm is None where it is not installed."""
    return {
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "vllm": found_version(),
        "vllm_sim": vllm_sim.__version__,
        "model": settings.model,
    }
