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
    run.json          seconds of wall time, host, versions, commit: what differs from run to run
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from vllm_sim.eviction.chains import link
from vllm_sim.eviction.registry import find_policy
from vllm_sim.provenance import about, commit
from vllm_sim.replay.cache import serve_cache
from vllm_sim.replay.requests import cache_requests, raw_requests, retokenised_tokens
from vllm_sim.replay.rows import PARTIAL, Outcome, Row, write_rows
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.summary import session_rows, summarise
from vllm_sim.replay.timeline import open_timeline
from vllm_sim.replay.virtual import run_engine
from vllm_sim.trace.files import iter_records, open_output
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised


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
    start, code = time.monotonic(), commit()
    find_policy(settings.policy)  # an unknown one need not wait for vLLM
    records = [record for _, record in iter_records(path)]
    trace = load_tokenised(path, settings.model)
    out.mkdir(parents=True, exist_ok=True)

    def told(done: int) -> None:
        progress(done, len(records))

    if settings.backend == "engine":
        with open_timeline(settings.timeline) if settings.timeline else nullcontext() as timeline:
            outcome = run_engine(path, out, trace, records, settings, told, timeline)
    else:
        outcome = run_cache(path, trace, records, settings, told)
    rows = outcome.rows
    retokenised = None if settings.raw_blocks else retokenised_tokens(trace, records)
    summary = summarise(path, trace, outcome, settings, retokenised)
    write_rows(out / "requests.jsonl", rows)
    write_rows(out / "sessions.jsonl", session_rows(rows, settings.block_size, settings.warmup))
    for name, values in outcome.files.items():
        write_rows(out / name, values)
    write_rows(out / "summary.jsonl", [summary])
    with open_output(out / "run.json") as file:
        file.write(json.dumps(about(settings.model, time.monotonic() - start, code), indent=2) + "\n")
    (out / PARTIAL).unlink(missing_ok=True)
    return summary


def run_cache(
    path: Path, trace: TokenisedTrace, records: Sequence[Record], settings: Settings, progress: Callable[[int], None]
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
