"""The longest prefix that was sent somewhere, by a tree of what was sent where: an approximate index.

As the cache-aware routers of SGLang and SMG have it (their documentation, read), with their defaults: where loads are
uneven the shortest queue; else the replica that was sent the longest part of this prompt, if that part is large enough;
else the one whose tree is smallest. The tree has its own limit and forgets what was used longest ago; it does not see
evictions, so it may take for cached what is gone. Real ones keep characters, or tokens; this one keeps full blocks.
"""

from collections import OrderedDict
from collections.abc import Sequence

from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext


class PrefixTreeRouter(Router):
    """By the longest prefix that was sent to a replica.

    Args:
        context: see Router.
        match: the share of a prompt's blocks that must have been sent to a replica for it to be chosen for them.
        apart: loads are uneven where the largest and the smallest queue differ by more requests than this,
        times: and the largest is more than this times the smallest.
        tree_blocks: blocks that the tree keeps, of all replicas.
    """

    def __init__(
        self,
        context: RouterContext,
        match: float = 0.3,
        apart: int = 64,
        times: float = 1.5,
        tree_blocks: int = 1_000_000,
    ):
        super().__init__(context)
        if not 0 <= match <= 1:
            raise ValueError(f"match is {match}; allowed: 0 to 1")
        if tree_blocks < 1:
            raise ValueError(f"tree_blocks is {tree_blocks}; allowed: 1 or more")
        self._match, self._apart, self._times, self._limit = match, apart, times, tree_blocks
        self._tree: OrderedDict[tuple[int, int], None] = OrderedDict()
        """(block, replica), the one used longest ago first."""
        self._sizes = [0] * self.replicas

    def choose(self, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
        blocks = request.blocks.tolist()
        chosen = self._choose(blocks, replicas)
        for block in reversed(blocks):  # of a chain the tail is forgotten first
            key = (block, chosen)
            if key not in self._tree:
                self._sizes[chosen] += 1
            self._tree[key] = None
            self._tree.move_to_end(key)
        while len(self._tree) > self._limit:
            (_, owner), _ = self._tree.popitem(last=False)
            self._sizes[owner] -= 1
        return chosen

    def _choose(self, blocks: list[int], replicas: Sequence[Replica]) -> int:
        queues = [replica.outstanding_requests for replica in replicas]
        if max(queues) - min(queues) > self._apart and max(queues) > self._times * min(queues):
            return queues.index(min(queues))
        sent = [self._sent(blocks, replica) for replica in range(self.replicas)]
        if blocks and max(sent) > self._match * len(blocks):
            return min(range(self.replicas), key=lambda one: (-sent[one], queues[one], one))
        return min(range(self.replicas), key=lambda one: (self._sizes[one], queues[one], one))

    def _sent(self, blocks: list[int], replica: int) -> int:
        """How many blocks from the first one on were sent to a replica."""
        for place, block in enumerate(blocks):
            if (block, replica) not in self._tree:
                return place
        return len(blocks)
