"""When sessions begin, and when the turns of a session follow.

    poisson   exponential gaps between sessions
    gamma     gaps of the same mean with a squared coefficient of variation of 1 / burstiness: below 1 they come in
              bursts, 1 is poisson, above 1 they are more even (as `vllm bench serve --burstiness` has it;
              vllm/benchmarks/serve.py of 0.32 was read)
    recorded  the timestamps of the trace, counted from the source's start
    at_once   all at the source's start
    file      the i-th session at the i-th time of a public trace (arrival_files.py), divided by speedup

A turn arrives the think time after the turn before it. How long an answer takes is not known before it is served, so
timestamps leave it out; a replay that waits for answers uses `think_time_ms`. Times that are drawn are whole
milliseconds.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from vllm_sim.trace.record import Record
from vllm_sim.workloads.arrival_files import read_arrivals
from vllm_sim.workloads.distribution import Distribution
from vllm_sim.workloads.session import Session

Kind = Literal["poisson", "gamma", "recorded", "at_once", "file"]
Think = Distribution | Literal["recorded"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """How the sessions of a source arrive; a rate for poisson and gamma only."""

    kind: Kind
    sessions_per_s: float | None = None
    requests_per_s: float | None = None
    """In place of sessions_per_s: the sessions' rate times their mean number of requests."""
    burstiness: float = 1.0
    path: Path | None = None
    """For file."""
    speedup: float = 1.0
    """For file."""

    def starts_ms(self, sessions: list[Session], generator: np.random.Generator) -> list[float]:
        """When each session begins, from the source's start.

        Raises:
            ValueError: a session that has no recorded time, or a file with fewer times than there are sessions.
        """
        if self.path is not None:
            times = read_arrivals(self.path)
            if len(times) < len(sessions):
                raise ValueError(
                    f"{self.path} has {len(times):,} arrivals; allowed: {len(sessions):,} or more, one a session"
                )
            return [round(time / self.speedup) for time in times[: len(sessions)]]
        if self.kind == "recorded":
            return [_recorded_ms(session.records[0]) for session in sessions]
        if self.kind == "at_once":
            return [0] * len(sessions)
        mean_gap_ms = 1000 / self._rate(sessions)
        gaps = generator.gamma(self.burstiness, mean_gap_ms / self.burstiness, size=len(sessions))
        return [int(start) for start in np.rint(np.cumsum(gaps))]

    def _rate(self, sessions: list[Session]) -> float:
        if self.sessions_per_s is not None:
            return self.sessions_per_s
        assert self.requests_per_s is not None
        return self.requests_per_s * len(sessions) / sum(len(session.records) for session in sessions)


@dataclass(frozen=True, slots=True)
class Thinking:
    """What lies between a turn and the next."""

    think_ms: Think
    tool_ms: Think
    """Before a turn that brings the result of a tool."""

    def gaps_ms(self, session: Session, generator: np.random.Generator) -> list[float]:
        """Time before each request of a session but the first, shape (requests - 1,).

        Raises:
            ValueError: a request that has no recorded time.
        """
        gaps: list[float] = []
        for earlier, later in pairwise(session.records):
            think = self.tool_ms if _is_tool_result(later) else self.think_ms
            if think == "recorded":
                gaps.append(_recorded_gap_ms(earlier, later))
            else:
                gaps.append(int(think.draw(generator, 1)[0]))
        return gaps


def times_ms(session: Session, start_ms: float, gaps_ms: list[float], recorded_from_ms: float | None) -> list[float]:
    """Arrival of each request; no turn comes earlier than the gap after the one before it.

    Args:
        session: The requests.
        start_ms: When the first arrives.
        gaps_ms: Before each of the others.
        recorded_from_ms: Where recorded timestamps are counted from, if turns that have one wait for it; else None.
    """
    times = [start_ms]
    for record, gap in zip(session.records[1:], gaps_ms, strict=True):
        time = times[-1] + gap
        if recorded_from_ms is not None and record.timestamp is not None:
            time = max(time, recorded_from_ms + record.timestamp)
        times.append(time)
    return times


def _is_tool_result(record: Record) -> bool:
    return record.messages is not None and record.messages[-1].get("role") == "tool"


def _recorded_ms(record: Record) -> float:
    if record.timestamp is None:
        raise ValueError(f"request {record.id!r} has no timestamp; arrivals allowed: poisson, gamma, at_once")
    return record.timestamp


def _recorded_gap_ms(earlier: Record, later: Record) -> float:
    if later.think_time_ms is not None:
        return later.think_time_ms
    if earlier.timestamp is None or later.timestamp is None:
        raise ValueError(
            f"request {later.id!r} has neither think_time_ms nor a timestamp to take it from; "
            "think_ms allowed: fixed, uniform, lognormal"
        )
    return max(later.timestamp - earlier.timestamp, 0)
