"""How long blocks stay cached, how long they were idle before they were evicted, and how soon they are used again.

The ledger says what happens; blocks are vLLM's block numbers. Three clocks: computed tokens (prompt and generated, of
all requests), requests admitted for the first time, and virtual milliseconds. Spans go into bins that double. What
happens is noted in a log of whole numbers, which compiled code adds up, many entries at once, so that one costs little.
"""

import math
from array import array
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

CLOCKS = ("computed_tokens", "requests", "virtual_ms")
KINDS = ("lifetime", "idle", "reuse_gap")
"""Cached until evicted; the last release until evicted; a release until the next hit by another admission (the return
of a preempted request is none)."""

_CACHED, _RELEASED, _HIT, _RETURN, _TAKEN = range(5)
_LIFETIME, _IDLE, _REUSE_GAP = range(3)
_BATCH = 100_000
"""Numbers that the log has at most, but for its last entry."""
_BITS = 64


class Lifetimes:
    """Moments of blocks, and the spans between them.

    Args:
        blocks: their numbers are below.
    """

    def __init__(self, blocks: int) -> None:
        self.computed_tokens = self.requests = 0
        self.now_ms = 0.0
        self._log = array("q")
        """Entries: what happened, the moment by each clock, how many blocks, and these."""
        self._moments = np.full((blocks, 2, len(CLOCKS)), -1, np.int64)
        """When blocks were cached, and when they were released; -1: they are not."""
        self._bins = np.zeros((len(KINDS), len(CLOCKS), _BITS), np.int64)
        """Spans of so many bits."""
        self._sums, self._most = np.zeros((2, len(KINDS), len(CLOCKS)), np.int64)

    def cached(self, blocks: Sequence[int]) -> None:
        """These blocks are cached now."""
        self._note(_CACHED, blocks)

    def released(self, blocks: Sequence[int]) -> None:
        """Nobody uses these blocks any more."""
        self._note(_RELEASED, blocks)

    def hit(self, blocks: Sequence[int], is_return: bool) -> None:
        """Cached blocks are used again; is_return: by a preempted request."""
        self._note(_RETURN if is_return else _HIT, blocks)

    def taken(self, blocks: Sequence[int]) -> None:
        """Blocks are allocated; those that were cached have been evicted for it."""
        self._note(_TAKEN, blocks)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kind and clock; `below` counts blocks by the upper end of their bin (the lower is half)."""
        self._add_up()
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

    def _note(self, event: int, blocks: Sequence[int]) -> None:
        log = self._log
        log.fromlist([event, self.computed_tokens, self.requests, int(self.now_ms), len(blocks), *blocks])
        if len(log) > _BATCH:
            self._add_up()

    def _add_up(self) -> None:
        if self._log:
            _add_up(np.frombuffer(self._log, np.int64), self._moments, self._bins, self._sums, self._most)
            self._log = array("q")


@numba.njit(cache=True)
def _add_up(log: Any, moments: Any, bins: Any, sums: Any, most: Any) -> None:
    """Adds the spans of a log up; arguments as the attributes of Lifetimes."""
    place = 0
    while place < log.size:
        event, now, begin = log[place], log[place + 1 : place + 4], place + 5
        place = begin + log[place + 4]
        for block in log[begin:place]:
            cached, released = moments[block]
            if event == _CACHED:
                cached[:] = now
            elif event == _RELEASED:
                released[:] = now
            elif event == _TAKEN:
                if cached[0] >= 0 and released[0] >= 0:
                    _add(now, cached, bins[_LIFETIME], sums[_LIFETIME], most[_LIFETIME])
                    _add(now, released, bins[_IDLE], sums[_IDLE], most[_IDLE])
                cached[:] = released[:] = -1
            else:
                if event == _HIT and released[0] >= 0:
                    _add(now, released, bins[_REUSE_GAP], sums[_REUSE_GAP], most[_REUSE_GAP])
                released[:] = -1


@numba.njit(cache=True)
def _add(now: Any, since: Any, bins: Any, sums: Any, most: Any) -> None:
    """Adds the span from one moment to another, by each clock."""
    for clock in range(now.size):
        span = now[clock] - since[clock]
        bins[clock, math.frexp(float(span))[1]] += 1  # its bits, of whole numbers below 2**53
        sums[clock] += span
        most[clock] = max(most[clock], span)
