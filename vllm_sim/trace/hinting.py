"""Adds to a trace what its clients could have said of their sessions: right, noisy, missing or wrong.

What is right is read from the trace: a session is over with its last row, and goes on after the time to its next row. A
row without a session is one of its own. Of each session it is drawn whether its client says anything; of each hint
whether it is a lie, and an estimate of time is off by a log-normal factor. A lie about the end says the contrary; a lie
about the next turn is the right answer of some other row. The same seed and trace give the same bytes.

A client that gives priorities makes them of the same two answers: LAST where the session is over, else KEPT, for MARGIN
times as long as its next turn is away.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import structs

from vllm_sim.trace.files import iter_records, write_records
from vllm_sim.trace.record import Record, TraceError

KINDS = ("end", "next", "retention")
"""`session_end`; `next_turn_ms`; `retention_priority` and `retention_ms`."""
LAST, KEPT, MARGIN = 10, 80, 1.5


class Hinting(NamedTuple):
    """What clients say."""

    kinds: Sequence[str] = KINDS[:2]
    share: float = 1.0
    """Of sessions whose client says anything."""
    noise: float = 0.0
    """Standard deviation of the logarithm of the factor by which times are off."""
    lies: float = 0.0
    """Share of hints that are lies."""
    seed: int = 0


class Hinted(NamedTuple):
    """What was written."""

    requests: int
    sessions: int
    hinted_requests: int


def add_hints(source: Path, out: Path, hinting: Hinting) -> Hinted:
    """Writes a trace with hints; those that it has of the same kinds are replaced.

    Raises:
        TraceError: a row cannot be read, or of a session with several rows one has no timestamp.
        ValueError: a value is out of range, or `out` is `source`.
    """
    _check(hinting)
    if out.exists() and out.samefile(source):
        raise ValueError(f"{out} is the file that is read; allowed: another name")
    rows, done = hinted(source, list(iter_records(source)), hinting)
    write_records(out, iter(rows))
    return done


def hinted(source: Path, numbered: Sequence[tuple[int, Record]], hinting: Hinting) -> tuple[list[Record], Hinted]:
    """Rows with hints; those that they have of the same kinds are replaced.

    Args:
        source: the trace, for errors.
        numbered: its rows, each with its line.
        hinting: what their clients say.

    Raises:
        TraceError: of a session with several rows one has no timestamp.
        ValueError: a value is out of range.
    """
    _check(hinting)
    session = _sessions([record for _, record in numbered])
    count = max(session, default=-1) + 1
    draw = np.random.default_rng(hinting.seed)
    says = draw.random(count) < hinting.share
    rows = list(_hinted(source, numbered, session, says, hinting, draw))
    return rows, Hinted(len(rows), count, int(says[session].sum()) if rows else 0)


def _sessions(records: Sequence[Record]) -> list[int]:
    """The session of each row, as a number in the order of first appearance."""
    numbers: dict[tuple[object, type | None], int] = {}
    names = (
        (row, None) if record.session_id is None else (record.session_id, type(record.session_id))
        for row, record in enumerate(records)
    )
    return [numbers.setdefault(name, len(numbers)) for name in names]


def _check(hinting: Hinting) -> None:
    for kind in hinting.kinds:
        if kind not in KINDS:
            raise ValueError(f"kind of hint is {kind!r}; allowed: {', '.join(KINDS)}")
    for name, value, most in (("share", hinting.share, 1), ("lies", hinting.lies, 1), ("noise", hinting.noise, 10)):
        if not 0 <= value <= most:
            raise ValueError(f"{name} is {value}; allowed: 0 to {most}")


def _hinted(
    source: Path,
    numbered: Sequence[tuple[int, Record]],
    session: Sequence[int],
    says: np.ndarray,
    hinting: Hinting,
    draw: np.random.Generator,
) -> Iterator[Record]:
    has_times = not {"next", "retention"}.isdisjoint(hinting.kinds)
    waits = _waits_ms(source, numbered, session) if has_times else [None] * len(session)
    known = [wait for wait in waits if wait is not None]
    last = {number: row for row, number in enumerate(session)}
    for row, (_, record) in enumerate(numbered):
        # As many draws for each row, whatever it gets: so one kind changes nothing of the other.
        end_lies, next_lies, other = draw.random(3)
        factor = float(np.exp(hinting.noise * draw.standard_normal()))
        lie_ms = known[int(other * len(known))] if known else 0.0
        is_over = bool((last[session[row]] == row) != (end_lies < hinting.lies))
        wait = waits[row]
        said_ms = round(factor * (lie_ms if wait is None or next_lies < hinting.lies else wait), 3)
        of_kind: dict[str, dict[str, bool | float | None]] = {
            "end": {"session_end": is_over},
            "next": {"next_turn_ms": None if wait is None else said_ms},
            "retention": {
                "retention_priority": LAST if is_over else KEPT,
                "retention_ms": None if is_over else MARGIN * said_ms,
            },
        }
        changed = {name: value for kind in hinting.kinds for name, value in of_kind[kind].items()}
        if not says[session[row]]:
            changed = dict.fromkeys(changed)
        yield structs.replace(record, **changed)


def _waits_ms(source: Path, numbered: Sequence[tuple[int, Record]], session: Sequence[int]) -> list[float | None]:
    """The time from each row to the next one of its session, None for the last."""
    waits: list[float | None] = [None] * len(session)
    before: dict[int, int] = {}
    for row, number in enumerate(session):
        if number in before:
            first, second = numbered[before[number]], numbered[row]
            for line, record in (first, second):
                if record.timestamp is None:
                    raise TraceError(source, line, "no timestamp, which a hint of the next turn needs")
            assert first[1].timestamp is not None
            assert second[1].timestamp is not None
            waits[before[number]] = max(0.0, second[1].timestamp - first[1].timestamp)
        before[number] = row
    return waits
