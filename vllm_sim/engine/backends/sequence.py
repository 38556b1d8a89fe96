"""vLLM's own KVCacheManager of any model, one request after the other: the `blockpool` backend for cache groups.

Faithful to vLLM 0.32 (v1/core/kv_cache_manager.py, v1/core/sched/scheduler.py, read): lookup, allocation, caching,
eviction and release are upstream's code, called in the scheduler's order: the prompt in the chunks that the scheduler
would make of it if it served nothing else, then one slot for each generated token but the last. Where a chunk must end
so that a state is kept says the scheduler's own method. Not faithful: no batch, no preemption.
"""

from collections.abc import Callable, Sequence

from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from vllm_sim.block_rules import computed_tokens
from vllm_sim.engine.backends.admissions import Admission
from vllm_sim.engine.backends.cache_groups import GroupFacts, chunk_tokens, group_facts
from vllm_sim.engine.backends.engine_builder import scheduler_of
from vllm_sim.engine.backends.group_ledger import GroupLedger, make_ledger
from vllm_sim.engine.backends.ledger import Ledger
from vllm_sim.engine.backends.row_outcome import RequestSettings, RowOutcome
from vllm_sim.trace.tokens import TokenisedTrace


class SequentialCache:
    """Serves rows by the cache manager of an engine that is never stepped.

    Args:
        core: What make_core built.
        trace: The rows' tokens.
        settings: What the requests ask for, by row.
        unit_tokens: Tokens in which hits and misses are counted.

    """

    def __init__(self, core: EngineCore, trace: TokenisedTrace, settings: Sequence[RequestSettings], unit_tokens: int):
        self.scheduler = scheduler = scheduler_of(core)
        self.manager, self.max_model_len = scheduler.kv_cache_manager, scheduler.max_model_len
        self.chunk_tokens = chunk_tokens(scheduler)
        self.trace, self.settings, self.block_hasher = trace, settings, core.request_block_hasher
        tokens = core.vllm_config.cache_config.kv_cache_size_tokens or 0
        self.groups: GroupFacts | None = group_facts(self.manager, unit_tokens, tokens)
        self.ledger: Ledger | GroupLedger = make_ledger(self.manager, unit_tokens)

    def run(self, progress: Callable[[int], None]) -> list[RowOutcome]:
        """Serves all rows in their order."""
        outcomes = []
        for row in range(len(self.trace)):
            request = self._request(row)
            fits = (
                computed_tokens(request.num_prompt_tokens, int(self.trace.response_lengths[row])) < self.max_model_len
            )
            admission = self._serve(request, row) if fits else self.ledger.look_at_rejected(request)
            tokens = int(self.trace.response_lengths[row]) if fits else 0
            outcomes.append(RowOutcome(row, 0.0, rejected=not fits, output_tokens=tokens, admission=admission))
            progress(row + 1)
        return outcomes

    def _request(self, row: int) -> "_SequentialRow":
        return _SequentialRow(
            str(row),
            self.trace.prompt(row).tolist(),
            SamplingParams(max_tokens=int(self.trace.response_lengths[row])),
            None,
            arrival_time=0.0,
            cache_salt=self.settings[row].cache_salt,
            block_hasher=self.block_hasher,
        )

    def _serve(self, request: "_SequentialRow", row: int) -> Admission:
        manager = self.manager
        manager.new_step_starts()
        blocks, hit_tokens, boundary = manager.get_computed_blocks(request)
        request.share(boundary)
        self._take(request, hit_tokens, blocks)
        while request.num_computed_tokens < request.num_tokens:
            manager.new_step_starts()
            self._take(request)
        for token in self.trace.response(row)[:-1].tolist():
            manager.new_step_starts()
            request.append_output_token_ids(token)
            self._take(request)
        manager.free(request)
        return self.ledger.forget(request.request_id)

    def _take(self, request: "_SequentialRow", hit_tokens: int = 0, blocks: KVCacheBlocks | None = None) -> None:
        """Computes what a step of the engine would: a chunk of the prompt, which ends where a state is to be kept."""
        tokens = min(request.num_tokens - request.num_computed_tokens - hit_tokens, self.chunk_tokens)
        if self.scheduler.need_mamba_block_aligned_split:
            tokens = self.scheduler._mamba_block_aligned_split(request, tokens, hit_tokens)
        if self.manager.allocate_slots(request, tokens, hit_tokens, blocks) is None:
            raise ValueError(f"row {request.request_id} has no room, though vLLM's estimate says that it has")
        _, retained = self.manager.take_kv_cache_block_copies()
        self.manager.block_pool.free_blocks(retained)  # what is copied is held until the step has ended
        request.compute(hit_tokens + tokens)


class _SequentialRow(Request):
    """Upstream's request, with what the scheduler would set."""

    def share(self, boundary: int) -> None:
        """A prefix that it shares with others ends at this token, which windows have not kept; 0: none."""
        self.shared_prefix_boundary = boundary

    def compute(self, tokens: int) -> None:
        """So many more tokens are computed, hits included."""
        self.num_computed_tokens += tokens
