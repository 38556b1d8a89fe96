"""A session stays where it is: sticky sessions, by a hash of the session's name.

vLLM's production stack and vllm-router do this by a header. Real ones use a ring, so that few sessions move when a
replica comes or goes; here no replica does.
"""

from collections.abc import Sequence

from vllm_sim.fleet.hashing import stable_hash
from vllm_sim.fleet.router import Replica, RoutedRequest, Router, least_loaded


class SessionRouter(Router):
    """By the hash of the session; a request without one goes where the fewest tokens are outstanding."""

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        if request.session is None:
            return least_loaded(replicas)
        return stable_hash(request.session) % self.replicas
