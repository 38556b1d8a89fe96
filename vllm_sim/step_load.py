"""What a step of an engine computes, summed over its requests: all that a model of its time needs.

Whole numbers, so that a sum does not depend on the order of the requests, and that of many requests which decode is one
product: a step's time is the same to the last bit, however its load was summed.
"""

from collections.abc import Iterable
from typing import NamedTuple


class StepLoad(NamedTuple):
    """Sums over the requests of a step."""

    requests: int
    tokens: int
    """Computed in the step."""
    sampled: int
    """Requests of which a token is sampled."""
    pairs: int
    """Of a computed token and a position that it attends to."""
    positions: int
    """Attended to, once a request, and those of computed tokens once more, since they are written."""
    decodes: int
    """Requests that compute one token after a context and sample one."""

    def plus(self, other: "StepLoad") -> "StepLoad":
        """The load of both."""
        return StepLoad(*map(int.__add__, self, other))


EMPTY = StepLoad(0, 0, 0, 0, 0, 0)


def load_of(parts: Iterable[tuple[int, int, bool]]) -> StepLoad:
    """The load of requests, each given by the tokens computed, those of context before, and whether one is sampled."""
    requests = tokens = sampled = pairs = positions = decodes = 0
    for new, context, last in parts:
        requests += 1
        tokens += new
        sampled += last
        pairs += new * context + new * (new + 1) // 2
        positions += context + 2 * new
        decodes += new == 1 and context > 0 and last
    return StepLoad(requests, tokens, sampled, pairs, positions, decodes)


def decode_load(requests: int, context_tokens: int) -> StepLoad:
    """The load of requests that decode, from the sum of their contexts."""
    return StepLoad(requests, requests, requests, context_tokens + requests, context_tokens + 2 * requests, requests)
