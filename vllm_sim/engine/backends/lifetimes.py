"""How long blocks stay cached, how long they were idle before they were evicted, and how soon they are used again.

The ledger says what happens, by a log (block_log.py). Three clocks: computed tokens (prompt and generated, of all
requests), requests admitted for the first time, and virtual milliseconds. Spans go into bins that double.
"""

import math
from typing import Any

import numba
import numpy as np

from vllm_sim.engine.backends.block_log import BLOCKS, CACHED, CLOCKS, HEAD, HIT, MOMENT, RELEASED, TAKEN

KINDS = ("lifetime", "idle", "reuse_gap")
"""Cached until evicted; the last release until evicted; a release until the next hit by another admission (the return
of a preempted request is none)."""

_LIFETIME, _IDLE, _REUSE_GAP = range(3)
_CACHED, _RELEASED = 0, len(CLOCKS)
_BITS = 64


class Lifetimes:
    """Moments of blocks, and the spans between them.

    Args:
        blocks: their numbers are below.
    """

    def __init__(self, blocks: int) -> None:
        self._moments = np.full((blocks, 2 * len(CLOCKS)), -1, np.int64)
        """When blocks were cached, and when they were released, by each clock; -1: they are not."""
        self._bins = np.zeros((len(KINDS), len(CLOCKS), _BITS), np.int64)
        """Spans of so many bits."""
        self._sums, self._most = np.zeros((2, len(KINDS), len(CLOCKS)), np.int64)

    def add_up(self, log: np.ndarray) -> None:
        """Adds the spans of what has happened."""
        _add_up(log, self._moments, self._bins, self._sums, self._most)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kind and clock; `below` counts blocks by the upper end of their bin (the lower is half)."""
        return [
            {"kind": kind, "clock": clock} | self._row(i, j)
            for i, kind in enumerate(KINDS)
            for j, clock in enumerate(CLOCKS)
        ]

    def _row(self, kind: int, clock: int) -> dict[str, Any]:
        bins = self._bins[kind, clock]
        blocks = int(bins.sum())
        mean = round(int(self._sums[kind, clock]) / blocks, 3) if blocks else None
        below = {str(2**size): int(bins[size]) for size in np.flatnonzero(bins).tolist()}
        return {"blocks": blocks, "mean": mean, "max": int(self._most[kind, clock]), "below": below}


@numba.njit(cache=True)
def _add_up(log: Any, moments: Any, bins: Any, sums: Any, most: Any) -> None:
    """Adds the spans of a log; other arguments as the attributes of Lifetimes."""
    entry = 0
    while entry < log.size:
        event, begin = log[entry], entry + HEAD
        end = begin + log[entry + BLOCKS]
        for place in range(begin, end):
            block = log[place]
            if event == CACHED:
                _set(moments, block, _CACHED, log, entry)
            elif event == RELEASED:
                _set(moments, block, _RELEASED, log, entry)
            else:
                was_released = moments[block, _RELEASED] >= 0
                if event == TAKEN:
                    if was_released and moments[block, _CACHED] >= 0:
                        _add(_LIFETIME, moments, block, _CACHED, log, entry, bins, sums, most)
                        _add(_IDLE, moments, block, _RELEASED, log, entry, bins, sums, most)
                    moments[block, _CACHED] = -1
                elif event == HIT and was_released:
                    _add(_REUSE_GAP, moments, block, _RELEASED, log, entry, bins, sums, most)
                moments[block, _RELEASED] = -1
        entry = end


@numba.njit(cache=True)
def _set(moments: Any, block: int, kind: int, log: Any, entry: int) -> None:
    for clock in range(len(CLOCKS)):
        moments[block, kind + clock] = log[entry + MOMENT + clock]


@numba.njit(cache=True)
def _add(
    span_kind: int, moments: Any, block: int, kind: int, log: Any, entry: int, bins: Any, sums: Any, most: Any
) -> None:
    """Adds the span from a moment of a block to that of an entry."""
    for clock in range(len(CLOCKS)):
        span = log[entry + MOMENT + clock] - moments[block, kind + clock]
        bins[span_kind, clock, math.frexp(float(span))[1]] += 1  # its bits, of whole numbers below 2**53
        sums[span_kind, clock] += span
        most[span_kind, clock] = max(most[span_kind, clock], span)
