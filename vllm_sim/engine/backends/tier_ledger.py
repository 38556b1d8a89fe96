"""Why a token came neither from the GPU's nor from the CPU's memory: the ledgers, besides vLLM's offloading manager.

Nothing is decided here. `TierWatch` stands before one manager's prepare_store and prepare_load, calls them, and notes
the chunks by key. Read: v1/kv_offload/cpu/manager.py and offloading/scheduler.py of vLLM 0.32. A hit is then what the
GPU's cache and the tier give together, and what was computed before and is in neither is split by what became of the
first chunk that the hit lacks, and of each after it:

    evicted    the tier held it, and evicted it
    pending    the tier was offered it, and has not stored it: below the threshold, or all chunks were in use
    never      it was never offered, as generated tokens and the rest of a prompt that fills no chunk; or less than a
               chunk is missing, which upstream does not load

A chunk that the tier holds after one that it lacks has the reason of that one.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.v1.core.kv_cache_manager import KVCacheManager
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_offload.base import PrepareStoreOutput, get_offload_group_idx, make_offload_key

from vllm_sim.engine import compat
from vllm_sim.engine.backends.admissions import Admission
from vllm_sim.engine.backends.cache_groups import keeps_everything
from vllm_sim.engine.backends.group_ledger import GroupLedger
from vllm_sim.engine.backends.ledger import Ledger
from vllm_sim.engine.backends.row_executor import RowExecutor
from vllm_sim.engine.contact import field

_OFFERED, _HELD, _EVICTED = range(3)


class TierWatch:
    """The chunks of a tier: offered, held, evicted, and stored for nothing.

    Args:
        scheduler: Of an engine that has served no request yet; its connector's manager is watched.
        block_bytes: Bytes of a block on all devices, by the place of its group among the offloaded ones.
    """

    def __init__(self, scheduler: Scheduler, block_bytes: tuple[int, ...]):
        connector = scheduler.connector
        assert isinstance(connector, OffloadingConnector)
        self.groups = connector.scheduler.config.kv_group_configs
        blocks = connector.scheduler.config.blocks_per_chunk
        self._chunk_bytes = {
            group.group_idx: size * blocks for group, size in zip(self.groups, block_bytes, strict=True)
        }
        self._state: dict[bytes, int] = {}
        self._unloaded: set[bytes] = set()
        """Held chunks that were not loaded since they were stored."""
        self._wasted_bytes = 0
        """Of chunks that were evicted so."""
        self._watch(connector.scheduler.manager)

    @property
    def unused_bytes(self) -> int:
        """Stored and never loaded until now, or until it was evicted."""
        return self._wasted_bytes + sum(map(self._bytes, self._unloaded))

    def lost(self, hashes: Any, places: Iterable[int]) -> Iterable[int]:
        """What became of blocks of the first group that were missed: _EVICTED, _OFFERED, or -1 for never.

        Args:
            hashes: Of a request's blocks.
            places: Of those that were missed, ascending.
        """
        step, group = self.groups[0].hashes_per_chunk, self.groups[0].group_idx
        reason = -1
        for place in places:
            last = (place // step + 1) * step - 1
            state = self._state.get(make_offload_key(hashes[last], group), -1) if last < len(hashes) else -1
            if state != _HELD:
                reason = state
            yield reason

    def first_lost(self, keys: Iterable[bytes]) -> int:
        """As `lost`, for the first of these chunks that the tier does not hold."""
        return next((state for key in keys if (state := self._state.get(key, -1)) != _HELD), -1)

    def _watch(self, manager: Any) -> None:
        offer, load = manager.prepare_store, manager.prepare_load

        def prepare_store(keys: Collection[bytes], req_context: Any) -> PrepareStoreOutput | None:
            keys = list(keys)
            output: PrepareStoreOutput | None = offer(keys, req_context)
            for key in keys:
                self._state.setdefault(key, _OFFERED)
            if output is not None:
                for key in output.evicted_keys:
                    self._state[key] = _EVICTED
                    if key in self._unloaded:
                        self._unloaded.remove(key)
                        self._wasted_bytes += self._bytes(key)
                self._state.update(dict.fromkeys(output.keys_to_store, _HELD))
                self._unloaded.update(output.keys_to_store)
            return output

        def prepare_load(keys: Collection[bytes], req_context: Any) -> Any:
            self._unloaded.difference_update(keys)
            return load(keys, req_context)

        compat.OFFER.put(manager, prepare_store)
        compat.LOAD.put(manager, prepare_load)

    def _bytes(self, key: Any) -> int:
        return self._chunk_bytes[get_offload_group_idx(key)]


class TieredLedger(Ledger):
    """The ledger of one group of full attention, and its tier."""

    def __init__(self, manager: KVCacheManager, tier: TierWatch):
        self._tier = tier
        self._external_tokens = 0
        """What the allocation under way gets from the tier."""
        super().__init__(manager)

    def _watch(self, manager: KVCacheManager) -> None:
        super()._watch(manager)
        _tell_external(self, manager)

    def expect(self, external_tokens: int) -> None:
        """The allocation that follows gets so many tokens from the tier."""
        self._external_tokens = external_tokens

    def _look(self, request: Any, hit_blocks: Sequence[int], loaded_blocks: int = 0) -> Admission:
        loaded = self._external_tokens // self.block_size
        found: Admission = super()._look(request, hit_blocks, loaded)
        hit = found.hit_blocks
        found.external_blocks = loaded
        _split(found, self._tier.lost(request.block_hashes, range(hit, hit + found.evicted_blocks)))
        return found

    def _admit(self, request: Any, hit_blocks: Sequence[int]) -> None:
        super()._admit(request, hit_blocks)
        if request.num_preemptions:
            admission: Admission = self.admissions[request.request_id]
            admission.readmission_hit_tokens += self._external_tokens

    def note_loaded(self, request: Any, manager: KVCacheManager) -> None:
        """Blocks were allocated for what comes from the tier; upstream does not give them back as new ones."""
        table = manager.get_blocks(request.request_id).blocks[0]
        start = len(table) - self._external_tokens // self.block_size
        self._loaded[request.request_id] = range(start, len(table))
        self.take(request.request_id, table[start:])


class TieredGroupLedger(GroupLedger):
    """The ledger of several groups, and their tier."""

    def __init__(self, manager: KVCacheManager, block_size: int, tier: TierWatch):
        self._tier = tier
        self._external_tokens = 0
        super().__init__(manager, block_size)

    def _watch(self, manager: KVCacheManager) -> None:
        super()._watch(manager)
        _tell_external(self, manager)

    def expect(self, external_tokens: int) -> None:
        """The allocation that follows gets so many tokens from the tier."""
        self._external_tokens = external_tokens

    def _look(self, request: Any, hit_tokens: int) -> Admission:
        found: Admission = super()._look(request, hit_tokens + self._external_tokens)
        found.external_blocks = found.hit_blocks - hit_tokens // self.unit_tokens
        # The tier keeps other chunks of a window than the GPU's cache would, and gives the last block of a prompt: a
        # hit beyond a boundary takes from the parts after it.
        parts, short = [], 0
        for blocks in (found.evicted_blocks, found.window_blocks, found.alignment_blocks, found.cold_blocks):
            parts.append(max(blocks + short, 0))
            short = min(blocks + short, 0)
        found.evicted_blocks, found.window_blocks, found.alignment_blocks, found.cold_blocks = parts
        if found.evicted_blocks:
            _split(found, [self._tier.first_lost(self._needed(request))] * found.evicted_blocks)
        return found

    def _needed(self, request: Any) -> Iterable[bytes]:
        """Keys of the chunks that a longer hit needs and the GPU does not have."""
        needed, _, _ = self._all.find_longest_cache_hit(request.block_hashes, request.num_prompt_tokens - 1)
        for group in self._tier.groups:
            for place, block in enumerate(needed[group.group_idx]):
                last = (place * group.tokens_per_block // group.tokens_per_chunk + 1) * group.hashes_per_chunk - 1
                is_missing = block.block_hash is not None and self._cached.get_one_block(block.block_hash) is None
                if not block.is_null and is_missing and last < len(request.block_hashes):
                    yield make_offload_key(request.block_hashes[last], group.group_idx)

    def _admit(self, request: Any, hit_tokens: int, hit_blocks: Any) -> None:
        super()._admit(request, hit_tokens + self._external_tokens, hit_blocks)

    def note_loaded(self, request: Any, manager: KVCacheManager) -> None:
        """Nothing: this ledger sees each block that a pool gives."""


def _tell_external(ledger: TieredLedger | TieredGroupLedger, manager: KVCacheManager) -> None:
    """Tells a ledger, which stands before a manager already, what each allocation gets from the tier."""
    allocate = manager.allocate_slots

    def allocate_slots(request: Any, *args: Any, **kwargs: Any) -> Any:
        tokens = kwargs.get("num_external_computed_tokens", 0)
        ledger.expect(tokens)
        try:
            blocks = allocate(request, *args, **kwargs)
            if blocks is not None and tokens:
                ledger.note_loaded(request, manager)
            return blocks
        finally:
            ledger.expect(0)

    compat.ALLOCATE.put(manager, allocate_slots)


def _split(found: Admission, reasons: Iterable[int]) -> None:
    """Counts the evicted blocks of an admission by what the tier did with them."""
    reasons = list(reasons)
    found.tier_evicted_blocks = reasons.count(_EVICTED)
    found.tier_pending_blocks = reasons.count(_OFFERED)
    found.tier_never_blocks = reasons.count(-1)


class TierFacts(NamedTuple):
    """What went between the tiers in a run."""

    chunks: int
    """That the tier holds."""
    stored_bytes: int
    loaded_bytes: int
    unused_bytes: int | None
    """Stored and never loaded, until the run's end or an eviction; None without attribution."""
    stall_ms: float
    """How long the engine stood still, because blocks were needed again before they were copied."""


class TierReport:
    """What is said of an engine's tier.

    Args:
        executor: Whose tier; it has served no request yet.
        scheduler: The engine's.
        longest_tokens: Of the longest prompt.
        attribution: Whether chunks are watched, for the ledger.

    Raises:
        ValueError: the tier holds less than the longest prompt.
    """

    def __init__(self, executor: RowExecutor, scheduler: Scheduler, longest_tokens: int, attribution: bool):
        assert executor.tier is not None
        connector = scheduler.connector
        assert isinstance(connector, OffloadingConnector)
        self._scheduler, self._copies = scheduler, executor.tier.copies
        self._chunks: int = field(connector.scheduler.manager, "_num_chunks")
        config = connector.scheduler.config
        needed = 0
        for group in config.kv_group_configs:
            chunks = longest_tokens // group.tokens_per_chunk
            window = group.sliding_window_size_in_chunks
            needed += chunks if window is None else min(chunks, window)
        if self._chunks < needed:
            raise ValueError(
                f"kv_offloading_size holds {self._chunks} chunks, and the longest prompt has {needed}; allowed: as many"
            )
        self._ranks = executor.tier.ranks
        sizes = tuple(size * self._ranks for size in executor.tier.block_bytes)
        self._watch = TierWatch(scheduler, sizes) if attribution else None

    def make_ledger(self, unit_tokens: int) -> TieredLedger | TieredGroupLedger:
        """Puts a ledger before the manager of the scheduler; as `group_ledger.make_ledger`."""
        assert self._watch is not None
        manager = self._scheduler.kv_cache_manager
        if not keeps_everything(manager):
            return TieredGroupLedger(manager, unit_tokens, self._watch)
        return TieredLedger(manager, self._watch)

    def facts(self) -> TierFacts:
        """What went between the tiers until now."""
        copies, unused = self._copies, None if self._watch is None else self._watch.unused_bytes
        if copies is None:
            return TierFacts(self._chunks, 0, 0, unused, 0.0)
        stored, loaded = copies.stored_bytes * self._ranks, copies.loaded_bytes * self._ranks
        return TierFacts(self._chunks, stored, loaded, unused, copies.stall_ms)
