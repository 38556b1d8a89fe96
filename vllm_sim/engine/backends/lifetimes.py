"""How long blocks stay cached, how long they were idle before they were evicted, and how soon they are used again.

Told by the ledger; blocks are vLLM's block numbers. Three clocks: computed tokens (prompt and generated, of all
requests), requests admitted for the first time, and virtual milliseconds. Spans go into bins that double.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

CLOCKS = ("computed_tokens", "requests", "virtual_ms")
KINDS = ("lifetime", "idle", "reuse_gap")
"""Cached until evicted; the last release until evicted; a release until the next hit by another admission (the return
of a preempted request is none)."""

_Moment = tuple[int, int, int]


class Lifetimes:
    """Moments of blocks, and the spans between them."""

    def __init__(self) -> None:
        self.computed_tokens = self.requests = 0
        self.now_ms = 0.0
        self._cached: dict[int, _Moment] = {}
        self._released: dict[int, _Moment] = {}
        self._bins: dict[str, tuple[Counter[int], ...]] = {kind: (Counter(), Counter(), Counter()) for kind in KINDS}
        self._sums = {kind: [0, 0, 0] for kind in KINDS}
        self._most = {kind: [0, 0, 0] for kind in KINDS}

    def cached(self, blocks: Iterable[int]) -> None:
        self._cached.update(dict.fromkeys(blocks, self._moment()))

    def released(self, blocks: Iterable[int]) -> None:
        """Nobody uses these blocks any more."""
        self._released.update(dict.fromkeys(blocks, self._moment()))

    def hit(self, blocks: Iterable[int], is_return: bool) -> None:
        """Cached blocks are used again; is_return: by a preempted request."""
        spans = []
        for block in blocks:
            moment = self._released.pop(block, None)
            if moment is not None:
                spans.append(moment)
        if not is_return:
            self._note("reuse_gap", spans)

    def taken(self, blocks: Iterable[int]) -> None:
        """Blocks are allocated; those that were cached have been evicted for it."""
        lives, idles = [], []
        for block in blocks:
            released, cached = self._released.pop(block, None), self._cached.pop(block, None)
            if released is not None and cached is not None:
                lives.append(cached)
                idles.append(released)
        self._note("lifetime", lives)
        self._note("idle", idles)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each kind and clock; `below` counts blocks by the upper end of their bin (the lower is half)."""
        result = []
        for kind in KINDS:
            blocks = self._bins[kind][0].total()
            for place, clock in enumerate(CLOCKS):
                bins = self._bins[kind][place]
                mean = round(self._sums[kind][place] / blocks, 3) if blocks else None
                below = {str(2**size): bins[size] for size in sorted(bins)}
                row = {"kind": kind, "clock": clock, "blocks": blocks, "mean": mean}
                result.append(row | {"max": self._most[kind][place], "below": below})
        return result

    def _moment(self) -> _Moment:
        return self.computed_tokens, self.requests, int(self.now_ms)

    def _note(self, kind: str, since: list[_Moment]) -> None:
        if not since:
            return
        bins, sums, most = self._bins[kind], self._sums[kind], self._most[kind]
        for place, now in enumerate(self._moment()):
            spans = [now - moment[place] for moment in since]
            bins[place].update([span.bit_length() for span in spans])
            sums[place] += sum(spans)
            most[place] = max(most[place], *spans)
