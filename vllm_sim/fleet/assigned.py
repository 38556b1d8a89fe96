"""A router that sends each request where another one has sent it."""

from collections.abc import Sequence

from vllm_sim.eviction.chains import Array
from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext


class AssignedRouter(Router):
    """Chooses what was chosen.

    Args:
        context: see Router.
        chosen: [n], the replica of each row.
    """

    def __init__(self, context: RouterContext, chosen: Array):
        super().__init__(context)
        self._chosen = chosen.tolist()

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return self._chosen[request.row]
