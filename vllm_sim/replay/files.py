"""The files of a replay.

requests.jsonl    a row for each request (rows.RequestResult), in the trace's order
summary.jsonl     one row (rows.RunSummary), which begins with what ran (config.RunConfig)
sessions.jsonl    a row for each session (rows.SessionResult)
evictions.jsonl   engine: evicted blocks by owner and evictor (evictions.py)
blocks.jsonl      engine: lifetimes of blocks (engine/backends/lifetimes.py)
run.json          seconds of wall time, host, versions, commit, how the engine was stepped: what differs from run to run
"""

import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from vllm_sim.eviction.registry import find_policy
from vllm_sim.provenance import about, commit
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.fleet import router_of
from vllm_sim.replay.outcome import request_results
from vllm_sim.replay.rows import PARTIAL, RequestResult, RunSummary, write_rows
from vllm_sim.replay.run import load, run
from vllm_sim.replay.summary import session_results
from vllm_sim.replay.timeline import Timeline, open_timeline
from vllm_sim.trace.output import name_errors, open_output

FILES = ("summary.jsonl", "requests.jsonl", "sessions.jsonl", "evictions.jsonl", "blocks.jsonl", "run.json")


class _Keeper:
    """Appends each request that has ended to a file, and draws the timeline."""

    def __init__(self, file: BinaryIO, timeline: Timeline | None):
        self._file, self._timeline = file, timeline
        self.step: Callable[[Any], None] | None = None if timeline is None else timeline.step

    def request(self, result: RequestResult) -> None:
        with name_errors(Path(self._file.name)):
            self._file.write(msgspec.json.encode(result) + b"\n")
        if self._timeline is not None:
            self._timeline.request(result)


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
    start, code = time.monotonic(), commit()
    if timeline is not None and config.backend != "engine":
        raise ValueError(f"backend {config.backend} has no time to draw a timeline of; allowed: engine")
    if path.name in FILES and path.resolve() == (out / path.name).resolve():
        raise ValueError(f"{path} is in {out}, where this run writes {path.name}; allowed: another folder")
    find_policy(config.policy)  # an unknown one need not wait for vLLM
    if config.router is not None:
        router_of(config)
        if timeline is not None:
            raise ValueError(f"a timeline draws one engine, and replicas is {config.replicas}; allowed: 1")
    loaded = load(path, config.model)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:  # of an earlier run, which may have written more of them
        (out / name).unlink(missing_ok=True)
    with ExitStack() as stack:
        keeper = None
        if config.backend == "engine":
            drawn = stack.enter_context(open_timeline(timeline)) if timeline else None
            keeper = _Keeper(stack.enter_context((out / PARTIAL).open("wb", buffering=0)), drawn)
        count = len(loaded.records)
        summary, outcome = run(loaded, config, progress=lambda done: progress(done, count), watcher=keeper)
    write_rows(out / "requests.jsonl", request_results(outcome))
    write_rows(out / "sessions.jsonl", session_results(outcome, config.warmup))
    for name, rows in outcome.files.items():
        write_rows(out / name, rows)
    write_rows(out / "summary.jsonl", [summary.to_row()])
    with open_output(out / "run.json") as text:
        steps = {} if outcome.steps is None else {"steps": outcome.steps}
        text.write(json.dumps(about(config.model, time.monotonic() - start, code) | steps, indent=2) + "\n")
    (out / PARTIAL).unlink(missing_ok=True)
    return summary
