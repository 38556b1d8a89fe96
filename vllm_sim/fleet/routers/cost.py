"""What a request would cost a replica: the tokens that it would have to compute, times what it has to do already.

The product balances cache and load without a weight to tune. Real routers that weigh both take a
weighted sum: NVIDIA Dynamo's of the blocks to compute and those in use, llm-d's of scores (their documentation, read).
"""

from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, RouterContext
from vllm_sim.fleet.routers.kv_events import KVEventsRouter


class CostRouter(KVEventsRouter):
    """The smallest (uncached prompt tokens) x (1 + outstanding requests); of equal ones the fewest outstanding tokens.

    Args:
        context: see Router.
        delay_ms: as `kv_events` has it.
    """

    def __init__(self, context: RouterContext, delay_ms: float = 0.0):
        super().__init__(context, delay_ms)
        self._block_size = context.block_size

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        return cheapest(request, replicas, self.index.longest(request.blocks.tolist()), self._block_size)


def cheapest(request: RoutedRequest, replicas: Sequence[Replica], held: Sequence[int], block_size: int) -> int:
    """The replica with the smallest cost; held: how many blocks of the request each has."""

    def cost(replica: Replica) -> tuple[int, int, int]:
        uncached = max(1, request.prompt_tokens - held[replica.number] * block_size)
        return uncached * (1 + replica.outstanding_requests), replica.outstanding_tokens, replica.number

    return min(replicas, key=cost).number
