"""Belady's optimum for chains: the block whose next use is farthest, a second copy before anything else.

Ties go to the block released first, which of two blocks in a chain is the child: next-use(parent) <= next-use(child).
Knows the future, so it is for recorded traces only; the future is the order of rows.

Source: Belady, "A study of replacement algorithms for a virtual-storage computer", IBM Systems Journal 1966.
"""

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy, PolicyContext

_NEVER = 2**62


@compiled
class Belady(Policy):
    """A block whose next request computes it in any case (the last of a prompt, or generated) is never used again."""

    def __init__(self, context: PolicyContext):
        super().__init__(context)
        if context.uses is None or context.first_use is None:
            raise ValueError("policy belady needs the future: it works on a recorded trace, not in a live server")
        self.row = -1
        self.uses = context.uses
        self.next = context.first_use[:-1].copy()
        self.end = context.first_use[1:].copy()

    def started(self, request: int, hittable: int) -> None:
        self.row = request

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        if copies > 1:
            return 0, -_NEVER
        while self.next[node] < self.end[node] and self.uses[self.next[node]] < 2 * (self.row + 1):
            self.next[node] += 1
        if self.next[node] == self.end[node] or self.uses[self.next[node]] % 2:
            return 0, -_NEVER
        return 0, -self.uses[self.next[node]]
