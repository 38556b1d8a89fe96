"""Composes the sources of a configuration into one trace, sorted by arrival.

The same configuration and sources give the same bytes (with one version of numpy). A source's rows depend on the seed,
its name and its own table only: another source may come, go or change. (Hash ids depend on which other files there are
too, see _hash_id_shift.)
Held in memory: all rows of the trace.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record
from vllm_sim.workloads.arrivals import times_ms
from vllm_sim.workloads.config import Part, Workload, read_workload
from vllm_sim.workloads.session import Seeds, Session
from vllm_sim.workloads.sources.trace import Trace

HASH_IDS = 1 << 24
"""Hash ids that each file has for itself where there are several."""


class Timed(NamedTuple):
    """A request and when it arrives."""

    time_ms: float
    record: Record


@dataclass(slots=True)
class Built:
    """What came out of a source."""

    name: str
    sessions: int
    """Sessions, batches and single requests that arrive before the source's end."""
    requests: int
    left_out: int
    """Requests at or after the source's end."""
    first_ms: float | None
    last_ms: float | None


def build(config: Path, out: Path, seed: int | None = None) -> list[Built]:
    """Writes the trace of a configuration; returns what each source gave.

    Args:
        config: the TOML file.
        out: the trace.
        seed: in place of the configuration's.

    Raises:
        ValueError: the configuration or a source cannot be used; nothing is written then.
        TraceError: a source's trace is broken.
    """
    workload = read_workload(config)
    if seed is not None:
        workload = replace(workload, seed=seed)
    for part in workload.parts:
        if isinstance(part.source, Trace) and out.exists() and out.samefile(part.source.path):
            raise ValueError(f"{out} is a file that is read; allowed: another name")
    rows: list[Timed] = []
    built = []
    for part in workload.parts:
        try:
            result, timed = _build_part(part, Seeds(workload.seed, part.name), _hash_id_shift(workload, part))
        except ValueError as error:
            raise ValueError(f"{config}, table [sources.{part.name}]: {error}") from None
        built.append(result)
        rows += timed
    if not rows:
        raise ValueError(f"{config}: no request arrives before its source's end_s")
    # Stable: what arrives at the same time stays in the order of sources, sessions, turns.
    rows.sort(key=lambda row: row.time_ms)
    write_records(out, (row.record for row in rows))
    return built


def _build_part(part: Part, seeds: Seeds, hash_id_shift: int | None) -> tuple[Built, list[Timed]]:
    sessions = part.source.sessions(part.sessions, seeds)
    starts = part.arrivals.starts_ms(sessions, seeds.generator("arrivals"))
    rows: list[Timed] = []
    kept = 0
    for number, (session, start) in enumerate(zip(sessions, starts, strict=True)):
        timed = [row for row in _time_session(part, session, start, number, seeds) if row.time_ms < part.end_ms]
        kept += bool(timed)
        rows += timed
    if hash_id_shift is not None:
        rows = [Timed(row.time_ms, _shift_hash_ids(row.record, hash_id_shift)) for row in rows]
    times = [row.time_ms for row in rows]
    left_out = sum(len(session.records) for session in sessions) - len(rows)
    return Built(part.name, kept, len(rows), left_out, min(times, default=None), max(times, default=None)), rows


def _time_session(part: Part, session: Session, start_ms: float, number: int, seeds: Seeds) -> list[Timed]:
    """The rows of a session that begins at start_ms, counted from the source's start; number: its place there."""
    if session.id is None:
        gaps = [0.0] * (len(session.records) - 1)
    else:
        gaps = part.thinking.gaps_ms(session, seeds.generator("think", number))
    recorded_from_ms = part.start_ms if part.arrivals.kind == "recorded" else None
    times = times_ms(session, part.start_ms + start_ms, gaps, recorded_from_ms)
    rows = []
    for turn, (record, time) in enumerate(zip(session.records, times, strict=True)):
        is_later_turn = session.id is not None and turn > 0
        changed = structs.replace(
            record,
            id=f"{part.name}/{number}-{turn}" if record.id is None else f"{part.name}/{record.id}",
            timestamp=time,
            session_id=None if session.id is None else f"{part.name}/{session.id}",
            turn=record.turn if session.id is None or record.turn is not None else turn,
            workload=part.workload or record.workload or part.name,
            think_time_ms=gaps[turn - 1] if is_later_turn else None,
            tenant=record.tenant if part.tenant is None else part.tenant,
            cache_salt=part.cache_salt or record.cache_salt,
        )
        rows.append(Timed(time, changed))
    return rows


def _hash_id_shift(workload: Workload, part: Part) -> int | None:
    """What is added to a source's hash ids, so that two files share none; None where there is one file only."""
    files = list(dict.fromkeys(p.source.path.resolve() for p in workload.parts if isinstance(p.source, Trace)))
    if not isinstance(part.source, Trace) or len(files) < 2:
        return None
    return files.index(part.source.path.resolve()) * HASH_IDS


def _shift_hash_ids(record: Record, shift: int) -> Record:
    if record.hash_ids is None:
        return record
    if max(record.hash_ids, default=0) >= HASH_IDS:
        raise ValueError(
            f"request {record.id!r} has hash id {max(record.hash_ids)}; allowed where several traces are composed: "
            f"0 to {HASH_IDS - 1}"
        )
    return structs.replace(record, hash_ids=[value + shift for value in record.hash_ids])
