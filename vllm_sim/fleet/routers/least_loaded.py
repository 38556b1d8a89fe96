"""The replica with the least to do. Real ones count requests or ask the engines for their queues; this one counts the
prompt tokens that it has sent and that are not answered yet.
"""

from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router, least_loaded


class LeastLoadedRouter(Router):
    """The fewest outstanding tokens; of equal ones the first."""

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return least_loaded(replicas)
