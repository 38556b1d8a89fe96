"""Policies as a user writes them: in plain Python, and declared for the compiler."""

import math

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.trace.hints import NO_HINTS


class MostRecent(Policy):
    """Most recently released first."""

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, -stamp


@compiled
class CompiledMostRecent(MostRecent):
    """The same, compiled."""


class Attentive(Policy):
    """Its order depends on all that it is given of requests: arrivals, hints, prompts' ends, matches."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        self.facts = RequestFacts(0.0, 0, 0, *NO_HINTS)
        self.matched = 0
        self.mark: dict[int, int] = {}
        self.depth: dict[int, int] = {-1: -1}

    def serves(self, facts: RequestFacts) -> None:
        self.facts = facts

    def started(self, request: int, hittable: int) -> None:
        self.matched = self.facts.matched  # which is 0 as its batch moves on

    def cached(self, node: int, parent: int) -> None:
        self.depth[node] = self.depth[parent] + 1
        self.hit(node)

    def hit(self, node: int) -> None:
        facts = self.facts
        said = [facts.arrival_ms, facts.session_end, facts.next_turn_ms, facts.retention_priority, facts.retention_ms]
        numbers = [0 if math.isnan(value) else 2 + int(value) for value in said]
        numbers += [facts.prompt_blocks, self.matched, int(self.depth[node] >= facts.prompt_blocks)]
        self.mark[node] = sum(
            number * factor for number, factor in zip(numbers, (1, 3, 5, 7, 11, 13, 17, 19), strict=True)
        )

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return 0, self.mark[node] % 31


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
