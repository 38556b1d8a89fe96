"""Routers as a user writes them: one that is right, and some that break a rule."""

import itertools
from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router

_CALLS = itertools.count()


class Shortest(Router):
    """The shortest queue."""

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return min(replicas, key=lambda one: (one.outstanding_requests, one.number)).number


class Astray(Router):
    """A replica that does not exist."""

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return 7


class Moody(Router):
    """Another choice in each run."""

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return next(_CALLS) % 7 % len(replicas)
