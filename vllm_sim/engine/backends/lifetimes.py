"""How long blocks stay cached, how long they were idle before they were evicted, and how soon they are used again.

The ledger says what happens; blocks are vLLM's block numbers. Three clocks: computed tokens (prompt and generated, of
all requests), requests admitted for the first time, and virtual milliseconds. Spans go into bins that double: many at
once, so that one costs little.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

CLOCKS = ("computed_tokens", "requests", "virtual_ms")
KINDS = ("lifetime", "idle", "reuse_gap")
"""Cached until evicted; the last release until evicted; a release until the next hit by another admission (the return
of a preempted request is none)."""

_Moment = tuple[int, int, int]

_BATCH = 10_000
"""Spans that wait to be added up."""


class Lifetimes:
    """Moments of blocks, and the spans between them."""

    def __init__(self) -> None:
        self.computed_tokens = self.requests = 0
        self.now_ms = 0.0
        self._cached: dict[int, _Moment] = {}
        self._released: dict[int, _Moment] = {}
        self._spans = {kind: _Spans() for kind in KINDS}

    def cached(self, blocks: Iterable[int]) -> None:
        moment, cached = self._moment(), self._cached
        for block in blocks:
            cached[block] = moment

    def released(self, blocks: Iterable[int]) -> None:
        """Nobody uses these blocks any more."""
        moment, released = self._moment(), self._released
        for block in blocks:
            released[block] = moment

    def hit(self, blocks: Iterable[int], is_return: bool) -> None:
        """Cached blocks are used again; is_return: by a preempted request."""
        pop = self._released.pop
        since = [moment for block in blocks if (moment := pop(block, None)) is not None]
        if not is_return:
            self._spans["reuse_gap"].add(self._moment(), since)

    def taken(self, blocks: Iterable[int]) -> None:
        """Blocks are allocated; those that were cached have been evicted for it."""
        lives, idles = [], []
        for block in blocks:
            released, cached = self._released.pop(block, None), self._cached.pop(block, None)
            if released is not None and cached is not None:
                lives.append(cached)
                idles.append(released)
        moment = self._moment()
        self._spans["lifetime"].add(moment, lives)
        self._spans["idle"].add(moment, idles)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kind and clock; `below` counts blocks by the upper end of their bin (the lower is half)."""
        return [
            {"kind": kind, "clock": clock} | self._spans[kind].row(place)
            for kind in KINDS
            for place, clock in enumerate(CLOCKS)
        ]

    def _moment(self) -> _Moment:
        return self.computed_tokens, self.requests, int(self.now_ms)


class _Spans:
    """Spans of one kind, by clock: how many there are of each size, their sums and the largest."""

    def __init__(self) -> None:
        self._bins = np.zeros((len(CLOCKS), 64), np.int64)
        """[clocks, bits]: spans of so many bits."""
        self._sums, self._most = np.zeros((2, len(CLOCKS)), np.int64)
        self._waiting: list[tuple[_Moment, Sequence[_Moment]]] = []
        self._count = 0
        """Of those that wait."""

    def add(self, now: _Moment, since: Sequence[_Moment]) -> None:
        """Adds the spans from some moments until now."""
        if since:
            self._waiting.append((now, since))
            self._count += len(since)
            if self._count >= _BATCH:
                self._add_up()

    def row(self, clock: int) -> dict[str, Any]:
        """What blocks.jsonl has of a clock, by its place."""
        self._add_up()
        bins = self._bins[clock]
        blocks = int(bins.sum())
        mean = round(int(self._sums[clock]) / blocks, 3) if blocks else None
        below = {str(2**size): int(bins[size]) for size in np.flatnonzero(bins).tolist()}
        return {"blocks": blocks, "mean": mean, "max": int(self._most[clock]), "below": below}

    def _add_up(self) -> None:
        if not self._count:
            return
        ends, sizes = [now for now, _ in self._waiting], [len(since) for _, since in self._waiting]
        begins = np.fromiter(chain.from_iterable(chain.from_iterable(since for _, since in self._waiting)), np.int64)
        spans = np.repeat(np.array(ends, np.int64), sizes, axis=0) - begins.reshape(-1, len(CLOCKS))
        bits = np.frexp(spans)[1]  # of whole numbers below 2**53
        for clock, bins in enumerate(self._bins):
            bins += np.bincount(bits[:, clock], minlength=bins.size)
        self._sums += spans.sum(0)
        self._most = np.maximum(self._most, spans.max(0))
        self._waiting, self._count = [], 0
