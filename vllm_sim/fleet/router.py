"""What a router is: it chooses the replica that serves a request, when the request arrives.

A router sees what it would see in production: the request's tokens, as the hashes of its full blocks; its session; what
it has sent to each replica and what of that has ended; and, if it says so, the engines' KV events, after their delay.
It does not see how long an answer will be, what comes later, or what a replica holds. `oracle` alone sees the last; it
is a yardstick and could not be built.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt


class RouterContext(NamedTuple):
    """What a router is made for."""

    replicas: int
    block_size: int
    """Tokens a block."""
    seed: int = 0
    """Of routers that draw."""


class RoutedRequest(NamedTuple):
    """A request, as a router that tokenises it sees it."""

    row: int
    """Its place in the trace: its name."""
    arrival_ms: float
    prompt_tokens: int
    blocks: npt.NDArray[np.int64]
    """A number for each full block of its prompt, which stands for the block's tokens and all before them, as the
    hashes of vLLM's blocks do; [blocks]."""
    session: str | int | None
    """As the client names it; None: it does not."""


@dataclass(slots=True)
class Replica:
    """What a router knows of a replica.

    Without a schedule (`fast`, `blockpool`) a request has ended before the next one arrives; there the last requests
    of the fleet count as outstanding (sequence.py).
    """

    number: int
    outstanding_requests: int = 0
    """Sent to it and not ended."""
    outstanding_tokens: int = 0
    """Prompt tokens of those."""
    look: Callable[[RoutedRequest], int] | None = None
    """How many blocks of a request it would hit now; None: the router does not see caches."""

    def hit_blocks(self, request: RoutedRequest) -> int:
        """How many blocks of a request this replica would hit now.

        Raises:
            ValueError: the router does not say that it sees caches.
        """
        if self.look is None:
            raise ValueError("a router that looks into caches says so; allowed: sees = 'caches' on its class")
        return self.look(request)


class Router:
    """Chooses replicas. A router overrides `choose`, and `stored` and `removed` where it sees events."""

    sees: ClassVar[Literal["requests", "events", "caches"]] = "requests"
    """What it sees besides requests: nothing, the engines' KV events, or their caches as they are."""
    delay_ms: float = 0.0
    """From the end of the step that stored or removed a block until the router knows."""

    def __init__(self, context: RouterContext):
        self.replicas = context.replicas

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        """Chooses for a request; called once for each, as they arrive.

        Args:
            request: its blocks and its tokens.
            replicas: all of them, in the order of their numbers.

        Returns:
            The number of the replica that serves it, from 0; another one is an error of the run.
        """
        raise NotImplementedError

    def stored(self, replica: int, blocks: Sequence[int]) -> None:
        """KV events: these blocks were cached, each once more."""

    def removed(self, replica: int, blocks: Sequence[int]) -> None:
        """KV events: these blocks were evicted, each once."""


def least_loaded(replicas: Sequence[Replica]) -> int:
    """The replica with the fewest outstanding tokens; of equal ones the first."""
    return min(replicas, key=lambda replica: (replica.outstanding_tokens, replica.number)).number
