"""A replica at random, as a load balancer without state chooses; vllm-router has it by this name."""

import random
from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext


class RandomRouter(Router):
    """Each replica with the same chance; the run's seed decides."""

    def __init__(self, context: RouterContext):
        super().__init__(context)
        self._draw = random.Random(context.seed)

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return self._draw.randrange(self.replicas)
