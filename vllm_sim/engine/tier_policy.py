"""The policies of `vllm_sim.eviction` on vLLM's CPU memory, by upstream's own plug-in: no rebinding, on any platform.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config":
        {"cpu_bytes_to_use": 8589934592, "eviction_policy": "slru",
         "cache_policy_module_path": "vllm_sim.engine.tier_policy"}}'

`eviction_policy` is a registered name or `module:Class`, and may be followed by its parameters, as in
`slru{"protected": 0.3}`. `lru` and `arc` are names of upstream's own policies; ours are
`vllm_sim.eviction.policies.lru:Lru` and `vllm_sim.eviction.policies.arc:Arc`.

Faithful to vLLM 0.32 (v1/kv_offload/cpu/policies/, cpu/manager.py, read): a chunk is used when its request has
finished, the tail of a prompt first; what a request inserted counts as new, what it found as a hit; an eviction takes
all that is wanted or changes nothing. Not as upstream's `lru`: a chunk is not evicted before the request that inserted
it has finished. vLLM 0.33 calls `insert` with the request too, and `on_request_access`, by which its `lru` counts a
chunk as used before its request has finished; here nothing is done then.
"""

import functools
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

from vllm.v1.kv_offload.base import OffloadKey, ReqContext, get_offload_group_idx
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus, order_request_keys

from vllm_sim.engine.contact import field
from vllm_sim.eviction.online_cache import online_context
from vllm_sim.eviction.pinned_cache import PinnedCache
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import make_policy


class TierPolicy(CachePolicy):
    """Chunks of CPU memory under a policy of vllm_sim.

    Args:
        cache_capacity: Chunks.
    """

    policy: ClassVar[str] = "lru"
    params: ClassVar[dict[str, Any]] = {}

    def __init__(self, cache_capacity: int):
        super().__init__(cache_capacity)
        self.clear()

    def clear(self) -> None:
        context = online_context(self.policy, self.cache_capacity, self.params)
        self._cache = PinnedCache(self.policy, context, self.params)
        self._chunks: dict[OffloadKey, ChunkStatus] = {}
        self._key: dict[int, OffloadKey] = {}
        """The key in a block; a chunk's block is its number and one more."""
        self._owner: dict[OffloadKey, str] = {}
        """The request that inserted a chunk, until it has finished."""
        self._parent: dict[OffloadKey, OffloadKey | None] = {}
        """The chunk before one that is about to be inserted."""
        self._started: dict[str, int] = {}
        self._numbers = itertools.count()
        self._request = ""

    def get(self, key: OffloadKey) -> ChunkStatus | None:
        return self._chunks.get(key)

    def on_store_miss(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        positions: dict[OffloadKey, int] = field(req_context, "_offload_key_positions")
        self._serve(req_context.req_id, len(positions))
        placed = {(get_offload_group_idx(key), end): key for key, end in positions.items()}
        steps = dict(sorted(placed, reverse=True))  # a first chunk ends where others begin
        for key in keys:
            group, end = get_offload_group_idx(key), positions[key]
            self._parent[key] = placed.get((group, (end - 1) // steps[group] * steps[group]))

    def insert(self, key: OffloadKey, chunk: ChunkStatus, req_context: ReqContext | None = None) -> None:
        block, parent = chunk.chunk_id + 1, self._parent.pop(key, None)
        self._chunks[key] = chunk
        self._key[block] = key
        self._owner[key] = self._request
        self._cache.cache([block], [_name(key)], None if parent is None else _name(parent), False)

    def remove(self, key: OffloadKey) -> None:
        block = self._chunks.pop(key).chunk_id + 1
        self._owner.pop(key, None)
        del self._key[block]
        self._cache.drop(block)

    def touch(self, keys: Iterable[OffloadKey], req_context: ReqContext) -> None:
        found = list(keys)
        self._use(found, set(found), req_context.req_id)

    def on_request_finished(
        self,
        key_groups: Sequence[Sequence[OffloadKey]],
        insertion_only_keys: set[OffloadKey],
        reused_keys: set[OffloadKey],
        req_context: ReqContext,
    ) -> None:
        keys = order_request_keys(key_groups, req_context)
        self._serve(req_context.req_id, len(keys))
        self._use(keys, reused_keys, req_context.req_id)
        for key in keys:
            self._parent.pop(key, None)
        del self._started[req_context.req_id]

    def evict(self, n: int, protected: set[OffloadKey]) -> list[tuple[OffloadKey, ChunkStatus]] | None:
        def stays(block: int) -> bool:
            key = self._key[block]
            return key in protected or self._chunks[key].ref_cnt != 0

        blocks = self._cache.evict_past(n, stays) if n else []
        if blocks is None:
            return None
        keys = [self._key.pop(block) for block in blocks]
        return [(key, self._chunks.pop(key)) for key in keys]

    def _serve(self, request: str, chunks: int) -> None:
        """What follows is for a request of so many chunks."""
        self._request = request
        is_new = request not in self._started
        number = self._started.setdefault(request, next(self._numbers)) if is_new else -1
        self._cache.serve(0, number, chunks)

    def _use(self, keys: Sequence[OffloadKey], reused: set[OffloadKey], request: str) -> None:
        """A request has used chunks, and those it inserted are from now on nobody's.

        Args:
            keys: In the order of its prompt.
            reused: Those that it found.
            request: Its name.
        """
        held = [key for key in keys if key in self._chunks]
        blocks = {key: self._chunks[key].chunk_id + 1 for key in held}
        hit = [blocks[key] for key in held if key in reused]
        seen = [blocks[key] for key in held if key not in reused and key not in self._owner]
        for found, again in ((hit, False), (seen, True)):
            if found:
                self._cache.touch(found, again)
        free = [blocks[key] for key in reversed(held) if self._owner.get(key, request) == request]
        for key in held:
            if self._owner.get(key) == request:
                del self._owner[key]
        if free:
            self._cache.release(free)


def _name(key: OffloadKey) -> bytes:
    """A key as the index takes names: its last 32 bytes, or whole and filled up where hashes are short."""
    return bytes(key[-32:]).ljust(-(-min(len(key), 32) // 8) * 8, b"\0")


@functools.cache
def policy_class(name: str) -> type[TierPolicy]:
    """The class that vLLM makes for a policy.

    Args:
        name: As `eviction_policy` has it.

    Raises:
        ValueError: there is no such policy, or it cannot be made with these parameters; or it knows the future.
    """
    policy, brace, rest = name.partition("{")
    try:
        params = json.loads(brace + rest) if brace else {}
    except ValueError as error:
        raise ValueError(f"policy of CPU memory is {name!r}: its parameters are not JSON: {error}") from None
    if policy in ("belady", "opt"):
        raise ValueError(f"policy of CPU memory is {name!r}, which knows the future; allowed: another")
    make_policy(policy, PolicyContext(blocks=1, nodes=1), params)
    return type("TierPolicy", (TierPolicy,), {"policy": policy, "params": params})


def __getattr__(name: str) -> Any:
    """What `cache_policy_module_path` looks for in this module: the class of the policy of that name."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return policy_class(name)
    except ValueError as error:
        raise AttributeError(str(error)) from error
