"""What every ledger keeps: the admission of each request, who evicted whose blocks, and how long blocks live.

It watches nothing. What happens to blocks is noted in a log of whole numbers (block_log.py), which compiled code reads,
many entries at once: a call from Python for each block would cost more than vLLM's own work on it.
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_sim.engine.backends.block_log import FIELDS, HIT, RELEASED, RETURNED
from vllm_sim.engine.backends.lifetimes import Lifetimes

_BATCH = 100_000
"""Numbers that the log has at most, but for its last entry."""
_NOBODY = (-1,) * FIELDS


@dataclass(slots=True)
class Admission:
    """What a request found at its first admission, in blocks; and what it took until its end."""

    hit_blocks: int
    hit_generated_blocks: int
    cold_blocks: int
    evicted_blocks: int
    evicted_by: str | None
    """Request whose allocation evicted the first block that was missed though it had been seen."""
    allocated_blocks: int = 0
    readmission_hit_tokens: int = 0
    # Where layers do not all keep the same (group_ledger.py):
    window_blocks: int = 0
    alignment_blocks: int = 0
    missed_group: int | None = None
    """The cache group whose block was missed first."""
    # Where blocks are in CPU memory too (tier_ledger.py); the three are what evicted_blocks are made of:
    external_blocks: int = 0
    """Of the hit."""
    tier_evicted_blocks: int = 0
    tier_pending_blocks: int = 0
    tier_never_blocks: int = 0


class Admissions:
    """The admissions of the requests that are served, and the evictions of a run.

    Args:
        blocks: of the pool; their numbers are below.
    """

    def __init__(self, blocks: int) -> None:
        self.admissions: dict[str, Admission] = {}
        """By request, until `forget`."""
        self.computed_tokens = 0
        """A clock: tokens that are computed, prompt and generated, of all requests."""
        self._requests = self._now_ms = 0
        """Two more: requests admitted for the first time, and virtual milliseconds."""
        self._log = array("q")
        """See block_log.py."""
        self._lifetimes = Lifetimes(blocks)
        self._evictions: dict[tuple[str, str], int] = {}
        self._evicted_blocks = 0

    @property
    def evictions(self) -> dict[tuple[str, str], int]:
        """(request that cached the block last, request whose allocation evicted it): blocks."""
        self.read_log()
        return self._evictions

    @property
    def evicted_blocks(self) -> int:
        """So far."""
        self.read_log()
        return self._evicted_blocks

    def lifetime_rows(self) -> list[dict[str, Any]]:
        """How long blocks live; see `Lifetimes.rows`."""
        self.read_log()
        return self._lifetimes.rows()

    def set_time(self, now_ms: float) -> None:
        """What follows happens at this virtual time."""
        self._now_ms = int(now_ms)

    def set_computed(self, tokens: int) -> None:
        """What follows happens when so many tokens have been computed."""
        self.computed_tokens = tokens

    def count_allocated(self, request: str, blocks: int) -> None:
        """Counts blocks that a request has got."""
        self.admissions[request].allocated_blocks += blocks

    def forget(self, name: str) -> Admission:
        """What a request that has ended found; it is not kept."""
        return self.admissions.pop(name)

    def count_evictions(self, owner: str, evictor: str, blocks: int) -> None:
        """Counts blocks that a request has evicted, and the request that cached them last."""
        pair = owner, evictor
        self._evictions[pair] = self._evictions.get(pair, 0) + blocks
        self._evicted_blocks += blocks

    def count_admission(self, request: str, hit_tokens: int, hit_blocks: Sequence[int], is_return: bool) -> None:
        """Counts a request that starts, or returns from a preemption, and uses blocks that are cached."""
        if is_return:
            self.admissions[request].readmission_hit_tokens += hit_tokens
        else:
            self._requests += 1
        if hit_blocks:
            self.note(RETURNED if is_return else HIT, hit_blocks)

    def release(self, blocks: Sequence[int]) -> None:
        """No request uses these blocks any more."""
        self.note(RELEASED, blocks)

    def note(self, event: int, blocks: Sequence[int], about: tuple[int, ...] = _NOBODY) -> None:
        """Enters what happens to blocks now.

        Args:
            event: see block_log.py.
            blocks: their numbers.
            about: the fields of a request, which only the ledger of one group reads.
        """
        log = self._log
        log.fromlist([event, len(blocks), self.computed_tokens, self._requests, self._now_ms, *about, *blocks])
        if len(log) > _BATCH:
            self.read_log()

    def read_log(self) -> None:
        """Counts what is noted and not counted yet."""
        if self._log:
            self._read(np.frombuffer(self._log, np.int64))
            self._log = array("q")

    def _read(self, log: np.ndarray) -> None:
        self._lifetimes.add_up(log)
