"""Sessions of a native trace: recorded or converted, of text, token ids or hash ids.

Rows with the same session_id are a session, in the order of their turns where all have one, else of the file; a row
without is one for itself. Sessions are chosen by a hash of the source's seed and their id, and come in the order of the
file. Held in memory: the chosen sessions.

    path              plain, .gz or .zst
    part              "K/N": only the K-th of N parts of the sessions, by a hash of their ids alone, so that two
                      configurations never share a session (default: "1/1")
"""

import hashlib
import heapq
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import Record
from vllm_sim.workloads.session import Seeds, Session, too_few
from vllm_sim.workloads.tables import Rule, TomlTable

Key = tuple[str, str | int]
"""("session", its id), or ("row", its number)."""
PART = Rule(
    lambda value: (
        isinstance(value, str)
        and (found := re.fullmatch(r"(\d{1,4})/(\d{1,4})", value)) is not None
        and 1 <= int(found[1]) <= int(found[2])
    ),
    'a text like "1/2": which part, of how many',
)


@dataclass(frozen=True, slots=True)
class Trace:
    """The sessions of a file."""

    path: Path
    part: int = 1
    parts: int = 1

    @classmethod
    def read(cls, table: TomlTable) -> Self:
        path = table.file("path")
        if not path.is_file():
            raise table.refuse("path", f"a native trace that is there{table.hint()}")
        part, parts = table.get("part", PART, "1/1").split("/")
        return cls(path, int(part), int(parts))

    def sessions(self, count: int | None, seeds: Seeds) -> list[Session]:
        chosen: dict[Key, list[Record]] = {}
        ranks: list[tuple[int, Key]] = []
        worst: int | None = None
        for number, (_, record) in enumerate(iter_records(self.path)):
            key: Key = ("row", number) if record.session_id is None else ("session", record.session_id)
            if key in chosen:
                chosen[key].append(record)
                continue
            if self.parts > 1 and _digest(f"{key!r}") % self.parts != self.part - 1:
                continue
            if count is None:
                chosen[key] = [record]
                continue
            # Negative, since heapq keeps the smallest at the top and the largest hash is the one to go.
            rank = -_hash(seeds, key)
            if worst is not None and rank <= worst:
                continue
            chosen[key] = [record]
            heapq.heappush(ranks, (rank, key))
            if len(ranks) > count:
                worst, gone = heapq.heappop(ranks)
                del chosen[gone]
        if count is not None and len(chosen) < count:
            raise too_few(self.path, count, len(chosen))
        return [Session(_session_id(key), _in_order(records)) for key, records in chosen.items()]


def _hash(seeds: Seeds, key: Key) -> int:
    return _digest(f"{seeds.seed}\n{seeds.source}\n{key!r}")


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _session_id(key: Key) -> str | int | None:
    return key[1] if key[0] == "session" else None


def _in_order(records: list[Record]) -> list[Record]:
    if any(record.turn is None for record in records):
        return records
    return sorted(records, key=lambda record: record.turn or 0)
