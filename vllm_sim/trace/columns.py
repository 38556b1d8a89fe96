"""The records of a trace's file, and what runs need of all of them as columns, which are kept as its tokens are.

Once there are columns, lines are decoded only where a run looks at a record itself, as one does that writes rows of
requests. They lie under $XDG_CACHE_HOME/vllm-sim (else ~/.cache/vllm-sim), in a folder that is named by a hash over the
trace and the code of this module (token_cache.py).
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vllm_sim.provenance import fingerprint
from vllm_sim.sources import cache_root
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.hints import NO_HINTS, hints_of
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.token_cache import load_arrays

Column = NDArray[Any]

LABELS = ("workload", "turn", "tenant", "session_id")
"""Fields whose values stand as numbers in the order of first appearance, -1 for none."""
_VALUES = "values"
"""A file of the values of LABELS, as JSON."""


class FileRecords(Sequence[Record]):
    """The records of a trace's file without what was said, which a run has as tokens."""

    def __init__(self, path: Path, columns: Mapping[str, Column]):
        self._path = path
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["salt"])

    def __getitem__(self, place: Any) -> Any:
        return self._records[place]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    @cached_property
    def _records(self) -> list[Record]:
        return _read(self._path)

    @cached_property
    def values(self) -> dict[str, list[Any]]:
        """The values of each of LABELS."""
        found: dict[str, list[Any]] = msgspec.json.decode(self.columns[_VALUES].tobytes())
        return found


def load_records(path: Path, sha256: str) -> Sequence[Record]:
    """The records of a trace's file.

    Args:
        path: the trace.
        sha256: of the file.

    Raises:
        TraceError: a line that is not a record.
    """
    key = hashlib.sha256(f"{fingerprint(load_records)} {sha256}".encode()).hexdigest()
    kinds = {name: kind for name, (kind, _) in _COLUMNS.items()} | {_VALUES: np.uint8}
    try:
        columns = load_arrays(cache_root() / "columns" / key[:32], kinds, partial(_write, path), {"trace": str(path)})
    except TraceError:
        raise
    except ValueError:  # a row's hint is none, which is no matter to a run that reads no hints
        return _read(path)
    return FileRecords(path, columns)


def column(records: Sequence[Record], name: str) -> Column:
    """A column of records, by its name in _COLUMNS; [n], of `hints` [n, 4].

    Raises:
        ValueError: hints, and a row's are out of range; names its place among the rows.
    """
    kind, make = _COLUMNS[name]
    # A copy, as compiled code takes no read-only array.
    found = np.array(records.columns[name] if isinstance(records, FileRecords) else make(records), kind)
    return found.reshape(len(records), len(NO_HINTS)) if name == "hints" else found


def label_values(records: Sequence[Record], name: str) -> list[Any]:
    """What the numbers of a label stand for."""
    if isinstance(records, FileRecords):
        return records.values[name]
    return list(dict.fromkeys(value for record in records if (value := getattr(record, name)) is not None))


def _read(path: Path) -> list[Record]:
    return [record.drop_contents() for _, record in iter_records(path)]


def _write(path: Path, files: Mapping[str, IO[bytes]]) -> None:
    records = _read(path)
    for name in _COLUMNS:
        files[name].write(column(records, name).tobytes())
    files[_VALUES].write(msgspec.json.encode({name: label_values(records, name) for name in LABELS}))


def _label(records: Sequence[Record], name: str) -> list[int]:
    numbers: dict[Any, int] = {None: -1}
    return [numbers.setdefault(getattr(record, name), len(numbers) - 1) for record in records]


def _numbers(values: Sequence[Any]) -> list[int]:
    numbers: dict[Any, int] = {}
    return [numbers.setdefault(value, len(numbers)) for value in values]


def _hints(records: Sequence[Record]) -> list[Any]:
    found = []
    for row, record in enumerate(records):
        try:
            found.append(hints_of(record))
        except ValueError as error:
            raise ValueError(f"row {row}: {error}") from None
    return found


_COLUMNS: dict[str, tuple[Any, Callable[[Sequence[Record]], Any]]] = {
    **{name: (np.int64, partial(_label, name=name)) for name in LABELS},
    # Workload and turn as one small number, in the order of first appearance.
    "category": (np.int64, lambda records: _numbers([(record.workload, record.turn) for record in records])),
    # In the order of first appearance after 0, which is none.
    "salt": (np.int64, lambda records: _numbers([None, *(record.cache_salt for record in records)])[1:]),
    # NaN where it is not known.
    "arrival_ms": (
        np.float64,
        lambda records: [np.nan if record.timestamp is None else record.timestamp for record in records],
    ),
    # The fields of Hints.
    "hints": (np.float64, _hints),
    "has_ids": (np.bool_, lambda records: [record.hash_ids is not None for record in records]),
    # Whether the generated tokens are known by their number alone.
    "has_length": (np.bool_, lambda records: [record.output_length is not None for record in records]),
}
"""The type of each column, and what makes it."""
