"""One replica after the other, whatever comes: the default of most load balancers; vllm-router has it by this name."""

from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext


class RoundRobinRouter(Router):
    """Request after request to the next replica."""

    def __init__(self, context: RouterContext):
        super().__init__(context)
        self._next = 0

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        chosen, self._next = self._next, (self._next + 1) % self.replicas
        return chosen
