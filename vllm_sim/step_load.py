"""What a step of an engine computes, summed over its requests: all that a model of its time needs.

Whole numbers, so that a sum does not depend on the order of the requests, and that of many requests which decode is one
product: a step's time is the same to the last bit, however its load was summed.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Reach(NamedTuple):
    """How many positions layers see: a sliding window's last ones, with the token's own, or those of its chunk."""

    tokens: int
    is_chunk: bool = False

    def pairs(self, new: int, context: int) -> int:
        """Of `new` tokens after `context` others, and the positions that each of them sees."""
        if self.is_chunk:
            return self._chunk_pairs(context + new) - self._chunk_pairs(context)
        growing = min(new, max(0, self.tokens - context))  # tokens that see all before them
        return growing * context + growing * (growing + 1) // 2 + (new - growing) * self.tokens

    def _chunk_pairs(self, tokens: int) -> int:
        """Of the first so many tokens."""
        chunks, rest = divmod(tokens, self.tokens)
        return chunks * (self.tokens * (self.tokens + 1) // 2) + rest * (rest + 1) // 2

    def seen(self, context: int) -> int:
        """Positions of the context that the token after it sees."""
        return context % self.tokens if self.is_chunk else min(context, self.tokens - 1)


class Near(NamedTuple):
    """What layers of a reach compute of a step; as in StepLoad."""

    pairs: int
    positions: int


class StepLoad(NamedTuple):
    """Sums over the requests of a step."""

    requests: int
    tokens: int
    """Computed in the step."""
    sampled: int
    """Requests of which a token is sampled."""
    pairs: int
    """Of a computed token and a position before it, or its own."""
    positions: int
    """Before computed tokens, once a request, those of computed tokens, and these once more, since they are written."""
    decodes: int
    """Requests that compute one token after a context and sample one."""
    near: tuple[Near, ...] = ()
    """For each reach that was given, in that order."""

    def plus(self, other: "StepLoad") -> "StepLoad":
        """The load of both; the other is that of a model without reaches."""
        assert not other.near
        return StepLoad(
            self.requests + other.requests,
            self.tokens + other.tokens,
            self.sampled + other.sampled,
            self.pairs + other.pairs,
            self.positions + other.positions,
            self.decodes + other.decodes,
            self.near,
        )


EMPTY = StepLoad(0, 0, 0, 0, 0, 0)


def load_of(parts: Iterable[tuple[int, int, bool]], reaches: Sequence[Reach] = ()) -> StepLoad:
    """The load of requests.

    Args:
        parts: Of each request the tokens computed, those of context before, and whether one is sampled.
        reaches: Those of the model's layers that do not see everything.
    """
    parts = list(parts)
    requests = tokens = sampled = pairs = positions = decodes = 0
    for new, context, last in parts:
        requests += 1
        tokens += new
        sampled += last
        pairs += new * context + new * (new + 1) // 2
        positions += context + 2 * new
        decodes += new == 1 and context > 0 and last
    near = tuple(
        Near(
            sum(reach.pairs(new, context) for new, context, _ in parts),
            sum(reach.seen(context) + 2 * new for new, context, _ in parts),
        )
        for reach in reaches
    )
    return StepLoad(requests, tokens, sampled, pairs, positions, decodes, near)


def decode_load(requests: int, context_tokens: int) -> StepLoad:
    """The load of requests that decode, from the sum of their contexts; every layer sees everything."""
    return StepLoad(requests, requests, requests, context_tokens + requests, context_tokens + 2 * requests, requests)
