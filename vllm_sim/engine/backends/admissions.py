"""What every ledger keeps: the admission of each request, and who evicted whose blocks. It watches nothing."""

from dataclasses import dataclass

from vllm_sim.engine.backends.lifetimes import Lifetimes


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
        self.lifetimes: Lifetimes = Lifetimes(blocks)
        self.admissions: dict[str, Admission] = {}
        """By request, until `forget`."""
        self._evictions: dict[tuple[str, str], int] = {}
        self._evicted_blocks = 0

    @property
    def evictions(self) -> dict[tuple[str, str], int]:
        """(request that cached the block last, request whose allocation evicted it): blocks."""
        self._apply()
        return self._evictions

    @property
    def evicted_blocks(self) -> int:
        """Blocks that were evicted."""
        self._apply()
        return self._evicted_blocks

    def _apply(self) -> None:
        """Counts what is noted and not counted yet."""

    def set_time(self, now_ms: float) -> None:
        """What follows happens at this virtual time."""
        self.lifetimes.now_ms = now_ms

    def set_computed(self, tokens: int) -> None:
        """What follows happens when so many tokens have been computed."""
        self.lifetimes.computed_tokens = tokens

    def count_computed(self, tokens: int) -> None:
        """Counts tokens that are computed."""
        self.lifetimes.computed_tokens += tokens

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

    def count_admission(self, request: str, hit_tokens: int, is_return: bool) -> None:
        """Counts a request that starts, or returns from a preemption."""
        if is_return:
            self.admissions[request].readmission_hit_tokens += hit_tokens
        else:
            self.lifetimes.requests += 1
