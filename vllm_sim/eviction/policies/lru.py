"""Least recently used: what vLLM does itself. A block's age counts from the end of the last request that used it."""

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.policy import Policy
from vllm_sim.eviction.prefix_index import PrefixIndex


@compiled
class Lru(Policy):
    """As the base says. Safe for chains by construction: a parent is released after its child.

    But for what is dropped from outside: if the newer copy of a node goes so, its child is left with the older copy.
    """

    in_order = True

    def victim(self, index: PrefixIndex) -> int:
        return index.line.first()
