"""The longest cached prefix, by an index that the engines' KV events feed: exact but for the delay.

Source: the precise-prefix-cache scorer of llm-d (its documentation, read). Events come as vLLM publishes them: after
the step that stored or removed a block, and then comes the way to the router. The rule is that of `prefix_tree`, so
that the two differ in the index alone: a match that is too short counts for nothing, or all that begin with one system
prompt would go to one replica. In llm-d the match is one score of several, with load; here load decides among equal
matches alone. `cost` weighs both.
"""

from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext, least_loaded


class EventIndex:
    """Which replica holds which blocks, as its events say; a block that is cached twice must be removed twice."""

    def __init__(self, replicas: int):
        self._copies: list[dict[int, int]] = [{} for _ in range(replicas)]

    def store(self, replica: int, blocks: Sequence[int]) -> None:
        copies = self._copies[replica]
        for block in blocks:
            copies[block] = copies.get(block, 0) + 1

    def remove(self, replica: int, blocks: Sequence[int]) -> None:
        """Takes blocks out; one that is not there is passed over, as a router that began late must."""
        copies = self._copies[replica]
        for block in blocks:
            left = copies.get(block, 0) - 1
            if left > 0:
                copies[block] = left
            else:
                copies.pop(block, None)

    def holds(self, replica: int) -> set[int]:
        """The blocks that a replica holds."""
        return set(self._copies[replica])

    def longest(self, blocks: Sequence[int]) -> list[int]:
        """For each replica how many of these blocks it holds, from the first one on."""
        found = []
        for copies in self._copies:
            place = 0
            while place < len(blocks) and blocks[place] in copies:
                place += 1
            found.append(place)
        return found


class KVEventsRouter(Router):
    """The replica with the longest cached prefix, if it is long enough; of equal ones that with the least to do.

    Args:
        context: see Router.
        delay_ms: from the end of a step until the router knows its events.
        match: the share of a prompt's blocks that must be cached; else the fewest outstanding tokens decide.
    """

    sees = "events"

    def __init__(self, context: RouterContext, delay_ms: float = 0.0, match: float = 0.3):
        super().__init__(context)
        if not 0 <= match <= 1:
            raise ValueError(f"match is {match}; allowed: 0 to 1")
        if not 0 <= delay_ms < float("inf"):
            raise ValueError(f"delay_ms is {delay_ms}; allowed: 0 or more")
        self.delay_ms, self._match = delay_ms, match
        self.index = EventIndex(context.replicas)

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        held = self.index.longest(request.blocks.tolist())
        if max(held) <= self._match * len(request.blocks):
            return least_loaded(replicas)
        return min(replicas, key=lambda one: (-held[one.number], one.outstanding_tokens, one.number)).number

    def stored(self, replica: int, blocks: Sequence[int]) -> None:
        self.index.store(replica, blocks)

    def removed(self, replica: int, blocks: Sequence[int]) -> None:
        self.index.remove(replica, blocks)
