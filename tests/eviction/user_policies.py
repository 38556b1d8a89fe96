"""Policies as a user writes them: in plain Python, and declared for the compiler."""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex


class MostRecent(Policy):
    """Most recently released first."""

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, -stamp


@compiled
class CompiledMostRecent(MostRecent):
    """The same, compiled."""


@compiled
class Attentive(Policy):
    """Its order depends on when requests arrive, what they say and where prompts end."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.present = 0
        self.prompt_blocks = 0
        self.said = 0
        self.mark = np.zeros(context.nodes, np.int64)
        self.depth = np.zeros(context.nodes, np.int64)

    def serves(self, facts: RequestFacts) -> None:
        self.present = 0 if np.isnan(facts.arrival_ms) else int(facts.arrival_ms)
        self.prompt_blocks = facts.prompt_blocks
        self.said = 0
        for value in (facts.session_end, facts.next_turn_ms, facts.retention_priority, facts.retention_ms):
            self.said = 3 * self.said + (1 if np.isnan(value) else 2 + int(value))

    def cached(self, node: int, parent: int) -> None:
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0
        self.use(node)

    def hit(self, node: int) -> None:
        self.use(node)

    def use(self, node: int) -> None:
        generated = self.depth[node] >= self.prompt_blocks
        self.mark[node] = (self.present % 97 + (50 if generated else 0) + 7 * self.prompt_blocks + self.said) % 31

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.mark[node]


@compiled
class Matching(Policy):
    """A chain's order depends on how much of its request was found cached when it started."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.found = 0
        self.matched = 0
        self.mark = np.zeros(context.nodes, np.int64)

    def serves(self, facts: RequestFacts) -> None:
        self.found = facts.matched

    def started(self, request: int, hittable: int) -> None:
        self.matched = self.found

    def cached(self, node: int, parent: int) -> None:
        self.mark[node] = self.matched

    def hit(self, node: int) -> None:
        self.mark[node] = self.matched

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.mark[node]


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
