"""A run as a trace that Perfetto and chrome://tracing open: requests, steps, and how full the engine is.

Format: JSON object with `traceEvents` (Google, "Trace Event Format"); times in microseconds of virtual time. Process 1
is the engine: a slice for each step, and counters of the cache's usage and of running and waiting requests. Process 2
are the requests: a slice for each from arrival to end, and in it `queued` (until it is first scheduled), `prefill`
(until its first token) and `decode`; requests that do not overlap share a track. A preemption is not drawn, only
counted. A step whose request brings one token and samples counts as decode, which a prompt's last chunk of one token
does too.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from vllm_sim.replay.latency import split_load
from vllm_sim.replay.rows import TIMES, RequestResult, Row
from vllm_sim.trace.files import open_output

ENGINE, REQUESTS = 1, 2
_STEPS = 1


class Timeline:
    """Writes events as they happen; the last of them closes the file.

    Args:
        file: Written; nothing is kept in memory but one number a track.
    """

    def __init__(self, file: IO[str]):
        self._file = file
        self._separator = "[\n"
        self._track_ends: list[float] = []
        self._file.write('{"displayTimeUnit": "ms", "traceEvents": ')
        for process, name in ((ENGINE, "engine"), (REQUESTS, "requests")):
            self._write("M", "process_name", process, 0, args={"name": name})
        self._write("M", "thread_name", ENGINE, _STEPS, args={"name": "steps"})

    def step(self, step: Any) -> None:
        """A step that has ended (`engine.backends.driver.Step`)."""
        prefill, prefill_tokens, decode = split_load(step.load)
        counts = {"tokens": prefill_tokens + decode, "prefill_requests": prefill, "decode_requests": decode}
        name = f"{prefill_tokens} prefill + {decode} decode tokens"
        self._slice(name, ENGINE, _STEPS, step.start_ms, step.end_ms, counts)
        for counter, value in (
            ("cache usage", round(step.usage, 6)),
            ("running requests", step.running),
            ("waiting requests", step.waiting),
        ):
            self._write("C", counter, ENGINE, 0, step.end_ms, args={"value": value})

    def request(self, result: RequestResult) -> None:
        """A request that has ended."""
        row = msgspec.to_builtins(result)
        kept = ("row", "id", "workload", "session_id", "turn", "prompt_tokens", "output_tokens", "hit_tokens")
        about = {name: row[name] for name in (*kept, "preemptions") if row.get(name) is not None}
        if row["status"] == "rejected":
            self._write("i", f"rejected row {row['row']}", REQUESTS, 0, row["arrival_ms"], s="p", args=about)
            return
        moments = [row[name] for name in TIMES]
        track = self._track(moments[0], moments[-1])
        self._slice(f"row {row['row']}", REQUESTS, track, moments[0], moments[-1], about)
        for name, start, end in zip(("queued", "prefill", "decode"), moments[:-1], moments[1:], strict=True):
            self._slice(name, REQUESTS, track, start, end, {})

    def close(self) -> None:
        self._file.write("\n]}\n")

    def _track(self, start_ms: float, end_ms: float) -> int:
        """The first track that is free; requests come in the order of their ends."""
        for track, busy_until in enumerate(self._track_ends):
            if busy_until <= start_ms:
                self._track_ends[track] = end_ms
                return track + 1
        self._track_ends.append(end_ms)
        return len(self._track_ends)

    def _slice(self, name: str, process: int, track: int, start_ms: float, end_ms: float, args: Row) -> None:
        duration_us = _us(end_ms) - _us(start_ms)
        self._write("X", name, process, track, start_ms, dur=round(duration_us, 3), args=args)

    def _write(
        self, kind: str, name: str, process: int, track: int, at_ms: float = 0.0, args: Row | None = None, **more: Any
    ) -> None:
        event = {"ph": kind, "name": name, "pid": process, "tid": track, "ts": _us(at_ms), **more, "args": args or {}}
        self._file.write(self._separator + json.dumps(event, ensure_ascii=False))
        self._separator = ",\n"


def _us(ms: float) -> float:
    return round(ms * 1000, 3)


@contextmanager
def open_timeline(path: Path) -> Iterator[Timeline]:
    """A timeline that appears under its name when the run has ended."""
    with open_output(path) as file:
        timeline = Timeline(file)
        yield timeline
        timeline.close()
