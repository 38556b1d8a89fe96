"""The same beginning goes to the same replica, unless that has too much to do: consistent hashing with bounded loads.

Source: Mirrokni, Thorup, Zadimoghaddam, "Consistent hashing with bounded loads", SODA 2018; KubeAI routes prefixes so.
Real ones hash the first characters of a text; here it is the first full blocks.
"""

import bisect
import math
from collections.abc import Sequence

from vllm_sim.fleet.hashing import stable_hash
from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext, least_loaded

_POINTS = 64
"""Of a replica on the ring."""


class PrefixHashRouter(Router):
    """By the hash of the first blocks; a prompt without a full block goes where the fewest tokens are outstanding.

    Args:
        context: see Router.
        blocks: so many first blocks count, or as many as there are.
        load: a replica that has more than this times the mean of the outstanding requests is passed over.
    """

    def __init__(self, context: RouterContext, blocks: int = 4, load: float = 1.25):
        super().__init__(context)
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}; allowed: 1 or more")
        if not 1 <= load < math.inf:
            raise ValueError(f"load is {load}; allowed: 1 or more")
        self._blocks, self._load = blocks, load
        ring = sorted(
            (stable_hash(replica, point), replica) for replica in range(self.replicas) for point in range(_POINTS)
        )
        self._places, self._owners = [place for place, _ in ring], [replica for _, replica in ring]

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        if not len(request.blocks):
            return least_loaded(replicas)
        key = stable_hash(int(request.blocks[min(self._blocks, len(request.blocks)) - 1]))
        most = math.ceil(self._load * (1 + sum(one.outstanding_requests for one in replicas)) / self.replicas)
        place = bisect.bisect(self._places, key)
        for step in range(len(self._owners)):
            owner = self._owners[(place + step) % len(self._owners)]
            if replicas[owner].outstanding_requests < most:
                return owner
        return least_loaded(replicas)  # not reached: the least loaded is below the mean
