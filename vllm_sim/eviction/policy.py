"""What an eviction policy is: it ranks blocks that may be evicted, and may say which queue is served next.

The prefix index (prefix_index.py) knows blocks, copies, parents and children, and offers only leaves: a cached block
that no request uses and that has no cached child, or another copy. So every policy is safe for chains, and answers only
"which block next".

A policy thinks in nodes. A node is a prefix of full blocks, what vLLM calls a block hash; it is a small number that a
policy may use as an index. Its blocks (one as a rule, more when vLLM computed the same prefix twice) are the index's
matter. Nodes that are neither cached, nor parents of cached ones, nor remembered as ghosts lose their number, after
`forgotten`.

Two rules keep a policy equal in every backend. What a call of `cached` notes may not change the order of the blocks
before the request is released, since vLLM caches a long prompt in chunks and takes blocks in between. And nothing may
depend on the value of a node's number, which differs between backends.
"""

from typing import ClassVar, NamedTuple

import numpy as np

from vllm_sim.eviction.prefix_index import PrefixIndex


class PolicyContext(NamedTuple):
    """What a policy is made for."""

    blocks: int
    """Usable blocks."""
    nodes: int
    """Node numbers are below this."""
    categories: int = 1
    """Request categories (workload and turn) are below this."""
    seed: int = 0
    uses: np.ndarray | None = None
    """For `belady` alone: the rows that ask for each node, ascending, node after node; twice the row, and one more
    where the row computes the node whether it is cached or not."""
    first_use: np.ndarray | None = None
    """For `belady` alone: where a node's rows begin in `uses`; [nodes + 1]."""


class RequestFacts(NamedTuple):
    """What a server knows of a request."""

    arrival_ms: float
    """When it arrived, from any zero that stays; NaN where nobody says so. In a replay the row's timestamp, whatever
    the schedule makes of it, so that the backends agree."""
    prompt_blocks: int
    """Full blocks of its prompt: a node with so many nodes before it, or more, holds generated tokens."""
    matched: int
    """Blocks of its prompt that were found cached, when it started or returned; 0 as its batch moves on."""
    session_end: float
    """What the client says (trace/hints.py), NaN where it says nothing: 1 if its session is over, 0 if it goes on."""
    next_turn_ms: float
    """From the answer to the session's next request, as the client expects it."""
    retention_priority: float
    """0 to 100; what is lower goes first."""
    retention_ms: float
    """For how long the priority holds."""


class Policy:
    """Least recently released first, in one queue. A policy overrides what it does otherwise.

    What it needs is declared on its class; where that depends on the context or on a parameter, `__init__` sets
    `queues` and `ghosts` of its own. The simplest policies give priorities alone: see priority.py.
    """

    queues: int = 1
    """Number of queues."""
    ghosts: int = 0
    """Evicted nodes that stay known, the oldest forgotten first."""
    both_ends: ClassVar[bool] = False
    """The index keeps `index.back` too, whose first block in a queue is the one with the highest key."""
    in_order: ClassVar[bool] = False
    """Blocks go as they were released, so that a list, `index.line`, does in place of heaps; without `rank`."""

    def __init__(self, context: PolicyContext):
        """A policy sets its state here; `super().__init__(context)` comes first."""

    def serving(self, category: int) -> None:
        """What is cached or hit from now on is for a request of this category; called again as a batch moves on."""

    def serves(self, facts: RequestFacts) -> None:
        """What is known of the request that is served now; after each `serving`, before `started`."""

    def started(self, request: int, hittable: int) -> None:
        """A request is served for the first time: not called for its later chunks, nor when it returns preempted.

        Args:
            request: its number, ascending.
            hittable: blocks of its prompt that an unlimited cache could hit.
        """

    def cached(self, node: int, parent: int) -> None:
        """A node is cached that was not (it may be a ghost); parent is -1 for a first block."""

    def hit(self, node: int) -> None:
        """A cached node is used by a request: found, or (a prompt's last block) computed once more."""

    def dropped(self, node: int) -> None:
        """A node is about to lose its last block, and not by an eviction: `evicted` follows."""

    def released(self, node: int) -> None:
        """A block of the node is used by nobody any more; the tail of a chain comes first."""

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        """The queue of a block that can be evicted from now on, and its key there: lowest first, then lowest stamp.

        Args:
            node: the node of the block.
            copies: cached blocks of the node.
            stamp: counts releases; of two blocks in a chain the parent has the higher one.
        """
        return 0, stamp

    def victim(self, index: PrefixIndex) -> int:
        """The block to evict, one that `index.leaves` holds; the index raises ValueError at another one."""
        return index.leaves.first(0)

    def evicted(self, node: int) -> None:
        """The last block of a node was evicted, or dropped by a reset; it is a ghost now or forgotten next."""

    def forgotten(self, node: int) -> None:
        """Nothing more will be said of this node; its number may come back as another one.

        It may be a node that was never cached, only the parent of one that was.
        """
