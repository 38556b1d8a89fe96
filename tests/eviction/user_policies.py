"""Policies as a user writes them: in plain Python, and declared for the compiler."""

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy


class MostRecent(Policy):
    """Most recently released first."""

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, -stamp


@compiled
class CompiledMostRecent(MostRecent):
    """The same, compiled."""
