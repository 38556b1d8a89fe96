"""A mix at a load, for the engine: sessions are drawn out of the mix, their starts moved together, their pauses kept.

A mix that lasts D seconds becomes one of S seconds at L times its rates of sessions: every session is kept with the
probability L * S / D, and one that began at t begins at t * S / D. So the phases of a mix stay, and a Poisson process
stays one. Turns come after the pauses that the mix has: a load is more people and not people who think faster. What
would come after S seconds is left out, so sessions are cut where the trace ends. Arrivals are stationary (those of
`shift` within its halves), and after a warm-up as many sessions end as begin.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from milestone3_code.study.view import session_numbers
from vllm_sim.provenance import fingerprint
from vllm_sim.sweep.runs import load
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record


class Traffic(NamedTuple):
    """What is made of a mix."""

    load: float
    """Times the mix's rates of sessions."""
    seconds: float
    """The time in which requests arrive."""
    mix_seconds: float
    """The time in which the mix's sessions begin."""

    @property
    def kept(self) -> float:
        """The share of the sessions that is kept.

        Raises:
            ValueError: the mix has fewer sessions than that takes.
        """
        share = self.load * self.seconds / self.mix_seconds
        if share > 1:
            most = self.mix_seconds / self.seconds
            raise ValueError(f"load is {self.load:g} for {self.seconds:g} s; allowed: up to {most:g}")
        return share


def write_stationary(mix: Path, model: str, traffic: Traffic, out: Path) -> None:
    """Writes the trace, as token ids, in the order of time were answers given at once.

    Raises:
        ValueError: see `Traffic.kept`.
    """
    trace, records = load(mix, model).trace, load(mix, model).records
    sessions = session_numbers(records)
    times = np.array([record.timestamp for record in records], np.float64)
    first_rows = np.unique(sessions, return_index=True)[1]
    is_kept = np.random.default_rng(0).random(first_rows.size) < traffic.kept
    starts = times[first_rows][sessions]
    moved = starts * traffic.seconds / traffic.mix_seconds + times - starts
    rows = np.flatnonzero(is_kept[sessions] & (moved < traffic.seconds * 1000))
    rows = rows[np.argsort(moved[rows], kind="stable")]

    def record(row: int) -> Record:
        given = records[row]
        return Record(
            prompt_token_ids=trace.prompt(row).tolist(),
            response_token_ids=trace.response(row).tolist(),
            finish_reason="length" if trace.cut[row] else None,
            id=given.id,
            timestamp=float(moved[row]),
            session_id=given.session_id,
            turn=given.turn,
            workload=given.workload,
            tenant=given.tenant,
            cache_salt=given.cache_salt,
            think_time_ms=given.think_time_ms,
        )

    write_records(out, (record(int(row)) for row in rows))


def warmup_share(path: Path, model: str, warmup_s: float) -> float:
    """The share of a trace's requests that are due before, as a replay takes it."""
    due_s = np.array([record.timestamp for record in load(path, model).records], np.float64) / 1000
    before = int((due_s < warmup_s).sum())
    return (before + 0.5) / due_s.size if before else 0.0


def stationary_trace(mix: Path, sha256: str, model: str, traffic: Traffic) -> Path:
    """The trace next to the mix's, written if it is not there; mix, load and code decide its name."""
    mark = hashlib.sha256(f"{fingerprint(write_stationary)} {sha256} {traffic}".encode()).hexdigest()[:8]
    path = mix.with_name(f"engine_{mix.stem.removeprefix('report_')}_{traffic.load:g}_{mark}.jsonl")
    if not path.is_file():
        write_stationary(mix, model, traffic, path)
    return path
