"""A yardstick, not a router: the rule of `cost`, by what every replica holds at this moment.

Nobody can build it, since events take their way. It bounds what `cost` loses by not knowing the caches, and not what
another rule could win: it is greedy, and does not see what a choice costs later.
"""

from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext
from vllm_sim.fleet.routers.cost import cheapest


class OracleRouter(Router):
    """As `cost`, with the caches as they are: a bound, which no router can reach."""

    sees = "caches"

    def __init__(self, context: RouterContext):
        super().__init__(context)
        self._block_size = context.block_size

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return cheapest(request, replicas, [one.hit_blocks(request) for one in replicas], self._block_size)
