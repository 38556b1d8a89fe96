"""Names for the prefix blocks of a trace, as arrays: two blocks have one name where they and all before them are equal.

A prefix of tokens (or of hash ids) t_0 ... t_k has the name sum(mix(t_i) * r**i) modulo 2**64, with an odd r and a mix
that spreads its argument over 64 bits: one running sum over the whole trace gives the names at every block size. Names
of different prefixes are equal by chance only, about n**2 / 2**65 for n blocks; this is for statistics and not for
caches, and not for traces that were made to collide.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RATIO = 0x9E3779B97F4A7C15
_U64 = np.uint64


def mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads integers over 64 bits (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + _U64(_RATIO)
        values = (values ^ (values >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> _U64(27))) * _U64(0x94D049BB133111EB)
        return values ^ (values >> _U64(31))


def prefix_names(units: NDArray[np.int64], offsets: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The name of the prefix that ends in each unit.

    Args:
        units: Tokens or hash ids of all rows, one after the other.
        offsets: [rows + 1].

    Returns:
        [units].
    """
    lengths = np.diff(offsets)
    if not len(units):
        return np.empty(0, dtype=_U64)
    with np.errstate(over="ignore"):
        powers = np.full(int(lengths.max()), _RATIO, dtype=_U64)
        powers[0] = 1
        powers = np.multiply.accumulate(powers)
        place = np.arange(len(units)) - np.repeat(offsets[:-1], lengths)
        sums = np.cumsum(mix(units.astype(_U64)) * powers[place], dtype=_U64)
        before = np.concatenate([np.zeros(1, dtype=_U64), sums])[offsets[:-1]]
        return mix(sums - np.repeat(before, lengths))


def _places(counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, index within the row) of every block, for the number of blocks of each row."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def names_at(
    rows: Iterable[NDArray[Any]], step: int, chunk_units: int = 1 << 20
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Names of the prefixes of rows of units that end at multiples of `step` units: (names, offsets [rows + 1]).

    Memory: of the units of a chunk, and of the names.
    """
    found: list[NDArray[np.uint64]] = []
    counts: list[int] = []
    chunk: list[NDArray[Any]] = []

    def close() -> None:
        lengths = np.array([len(row) for row in chunk])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        of_row, index = _places(lengths // step)
        names = prefix_names(np.concatenate(chunk).astype(np.int64), offsets)
        found.append(names[offsets[of_row] + (index + 1) * step - 1])
        counts.extend((lengths // step).tolist())
        chunk.clear()

    held = 0
    for row in rows:
        chunk.append(row)
        held += len(row)
        if held >= chunk_units:
            close()
            held = 0
    if chunk:
        close()
    return np.concatenate(found), np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
