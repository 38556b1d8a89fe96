"""Policies as a user writes them: in plain Python, and declared for the compiler."""

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex


class MostRecent(Policy):
    """Most recently released first."""

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, -stamp


@compiled
class CompiledMostRecent(MostRecent):
    """The same, compiled."""


class Astray(Policy):
    """Answers with what is out of range, by its parameter."""

    def __init__(self, context: PolicyContext, block: int = 0, queue: int = 0, fraction: int = 0):
        super().__init__(context)
        self.block = block
        self.queue = queue
        self.fraction = fraction

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, float]:
        return self.queue, stamp + self.fraction / 2

    def victim(self, index: PrefixIndex) -> int:
        return self.block if self.block else index.leaves.first(0)


@compiled
class CompiledAstray(Astray):
    """The same, compiled."""
