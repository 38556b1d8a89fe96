"""vLLM's EngineCore in this process, stepped by a virtual clock: the `engine` backend.

Faithful to vLLM 0.32 (v1/engine/core.py, core_client.py, read): EngineCore, its scheduler, its KV-cache manager and its
block pool are upstream's and are called as InprocClient calls them. Each request is answered with its own row, and
what ends in an end token is stopped by it: no scheduler knows that end beforehand. Time is modelled: a step takes what
the latency model says, requests arrive between steps, and tokens appear at the end of theirs. With asynchronous
scheduling upstream's step_with_batch_queue is called: step k+1 is scheduled when step k begins, and what arrives during
step k is scheduled in step k+2 at the earliest. A step that was scheduled for requests which have ended meanwhile
takes its time as on a device. Not modelled: the front end (tokenising, HTTP) and the time that scheduling itself takes.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from vllm_sim.block_rules import computed_tokens, needed_blocks
from vllm_sim.engine.backends.cache_groups import GroupFacts, group_facts
from vllm_sim.engine.backends.engine_builder import RowFacts, Setup, make_core, scheduler_of
from vllm_sim.engine.backends.group_ledger import GroupLedger, make_ledger
from vllm_sim.engine.backends.ledger import Ledger
from vllm_sim.engine.backends.row_executor import RowExecutor
from vllm_sim.engine.backends.row_outcome import Arrival, RequestSettings, RowOutcome, Step
from vllm_sim.engine.backends.sparse import SparseSteps
from vllm_sim.engine.backends.stepping import plain_reason
from vllm_sim.engine.backends.stored_hashes import use_stored_hashes
from vllm_sim.engine.backends.tier_ledger import TierReport
from vllm_sim.engine.backends.tier_steps import TierSteps
from vllm_sim.step_load import EMPTY, Reach, StepLoad, load_of
from vllm_sim.trace.tokens import TokenisedTrace

__all__ = [
    "Arrival", "Driver", "RequestSettings", "RowExecutor", "RowFacts", "RowOutcome", "Setup", "Step", "make_core",
    "use_stored_hashes",
]  # fmt: skip


class Driver:
    """Feeds rows to an engine as they arrive, and steps it.

    Args:
        core: What make_core built.
        trace: The rows' tokens.
        step_ms: The time of a step in milliseconds, from what it computes. None: steps take no time.
        settings: What the requests ask for, by row.
        concurrency: Rows that may be served at once; None for no bound.
        progress: Called with the number of rows done.
        on_step: Called after each step that computed something.
        attribution: Whether a ledger is kept of why blocks were not hit.
        plain_steps: Whether upstream's scheduler sees every step, also where it need not (sparse.py).
        unit_tokens: Tokens in which hits and misses of several cache groups are counted.
        reaches: Those of which `step_ms` must know what layers see of a step.
    """

    def __init__(
        self,
        core: EngineCore,
        trace: TokenisedTrace,
        step_ms: Callable[[StepLoad], float] | None,
        settings: Sequence[RequestSettings],
        concurrency: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
        on_step: Callable[[Step], None] | None = None,
        attribution: bool = True,
        plain_steps: bool = False,
        unit_tokens: int = 16,
        reaches: Sequence[Reach] = (),
    ):
        assert isinstance(core.model_executor, RowExecutor)
        self.core, self.trace, self.step_ms, self.settings, self.reaches = core, trace, step_ms, settings, reaches
        self.executor = core.model_executor
        self.concurrency, self.progress, self.on_step = concurrency, progress, on_step
        config = core.vllm_config
        self.block_size = config.cache_config.block_size
        self.scheduler = scheduler_of(core)
        self.capacity_blocks = self.scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1  # without the null block
        manager = self.scheduler.kv_cache_manager
        capacity_tokens = config.cache_config.kv_cache_size_tokens or 0
        self.groups: GroupFacts | None = group_facts(manager, unit_tokens, capacity_tokens)
        """None where all layers have full attention."""
        self.tier: TierReport | None = None
        """What is copied to CPU memory and back; None where nothing is."""
        if self.executor.tier is not None:
            longest = int(trace.prompt_lengths.max(initial=0))
            self.tier = TierReport(self.executor, self.scheduler, longest, attribution)
        self.ledger: Ledger | GroupLedger | None = None
        if attribution:
            self.ledger = make_ledger(manager, unit_tokens) if self.tier is None else self.tier.make_ledger(unit_tokens)
        if plain_steps:
            self.plain_reason: str | None = "--plain-steps"
        else:
            self.plain_reason = plain_reason(core) or ("layers that do not see everything" if reaches else None)
        """Why every step is shown to upstream's scheduler; None where it is shown only those that it must see."""
        self._sparse: SparseSteps | None = None
        if self.plain_reason is None:
            assert not isinstance(self.ledger, GroupLedger)  # of one group of full attention
            self._sparse = SparseSteps(core, self.executor, self.ledger)
        self._tier_steps = None if self.tier is None else TierSteps(self.executor, self.step_ms)
        self.now_ms = 0.0
        self._running: dict[str, RowOutcome] = {}
        self._requests: dict[str, Any] = {}
        self._silent: set[str] = set()
        """Requests without a token yet."""
        self._batches: deque[StepLoad] = deque()
        """Loads of the steps that are scheduled and have not ended; two at most, and one but for an instant."""

    def run(self, arrivals: Sequence[Arrival]) -> Iterator[RowOutcome]:
        """Serves all rows; yields each as it ends. Ties in time are served in the order of rows."""
        waiting: dict[int, list[Arrival]] = {}
        due: list[tuple[float, int]] = []
        for arrival in arrivals:
            if arrival.after_row is None:
                heapq.heappush(due, (arrival.ms, arrival.row))
            else:
                waiting.setdefault(arrival.after_row, []).append(arrival)
        done = 0
        while due or self.is_busy():
            if self.is_busy():
                step_ms = self.next_step_ms()
                self.wait_until(min(step_ms, due[0][0]) if due and not self._is_full() else step_ms)
            rejected = self.admit(due)
            for outcome in [*rejected, *self.step(due, is_alone=bool(rejected))]:
                # A closed loop sends rows in their order, as places get free; only an open one waits for times.
                base_ms = outcome.end_ms if self.concurrency is None else 0.0
                for arrival in waiting.pop(outcome.row, ()):
                    heapq.heappush(due, (base_ms + arrival.ms, arrival.row))
                done += 1
                self.progress(done)
                yield outcome

    def is_busy(self) -> bool:
        """Whether a request is served, a step of requests that have ended is still computed, or a copy is under way."""
        return bool(self._running or self._batches) or (self._tier_steps is not None and self.scheduler.has_requests())

    def next_step_ms(self) -> float:
        """When an engine that is busy takes its next step, where nothing arrives before."""
        until_ms = None if self._tier_steps is None else self._tier_steps.idle_until_ms
        return self.now_ms if until_ms is None else max(self.now_ms, until_ms)

    def wait_until(self, ms: float) -> None:
        """Moves the clock on."""
        self.now_ms = max(self.now_ms, ms)

    def admit(self, due: list[tuple[float, int]]) -> list[RowOutcome]:
        """Adds what has arrived; returns what cannot fit. The clock jumps where the engine is idle."""
        if due and due[0][0] > self.now_ms and not self.is_busy():
            self.now_ms = due[0][0]
        rejected = []
        while self._is_due(due):
            arrival_ms, row = heapq.heappop(due)
            # A closed loop sends a row when a place is free.
            outcome = RowOutcome(row, arrival_ms if self.concurrency is None else max(arrival_ms, self.now_ms))
            request, wave = self.core.preprocess_add_request(self._request(row))
            if not self.takes(row):
                outcome.rejected = True
                outcome.end_ms = self.now_ms
                if self.ledger is not None:
                    outcome.admission = self.ledger.look_at_rejected(request)
                self.executor.forget(request.request_id)
                rejected.append(outcome)
                continue
            self._running[request.request_id] = outcome
            self._requests[request.request_id] = request
            self._silent.add(request.request_id)
            self.core.add_request(request, wave)
        return rejected

    def _is_due(self, due: list[tuple[float, int]]) -> bool:
        """Whether a row has arrived and has a place."""
        return bool(due) and due[0][0] <= self.now_ms and not self._is_full()

    def _is_full(self) -> bool:
        return self.concurrency is not None and len(self._running) >= self.concurrency

    def takes(self, row: int) -> bool:
        """Whether the cache can hold a row; with several groups upstream has bounded the tokens."""
        computed = computed_tokens(int(self.trace.prompt_lengths[row]), int(self.trace.response_lengths[row]))
        needed = needed_blocks(computed, self.block_size) if self.groups is None else 0
        return needed <= self.capacity_blocks and computed < self.scheduler.max_model_len

    def _request(self, row: int) -> EngineCoreRequest:
        settings = self.settings[row]
        return EngineCoreRequest(
            request_id=str(row),
            prompt_token_ids=self.trace.prompt(row).tolist(),
            mm_features=None,
            sampling_params=self._sampling(row, settings.max_tokens),
            pooling_params=None,
            arrival_time=self.now_ms,
            lora_request=None,
            cache_salt=settings.cache_salt,
            data_parallel_rank=None,
            priority=settings.priority,
        )

    def _sampling(self, row: int, max_tokens: int | None) -> SamplingParams:
        length_tokens = int(self.trace.response_lengths[row])
        stop = self.executor.stop_token(row)
        if stop is None:
            return SamplingParams(max_tokens=length_tokens)
        return SamplingParams(max_tokens=length_tokens + (max_tokens != length_tokens), stop_token_ids=[stop])

    def step(self, due: list[tuple[float, int]], is_alone: bool) -> list[RowOutcome]:
        """One step of the engine, and before it those that upstream need not see; the clock moves to its end.

        Args:
            due: What has not arrived; such steps end where a row arrives.
            is_alone: Whether there may be another arrival after one step.

        Returns:
            The rows that ended in it.
        """
        if not self.is_busy():
            return []
        if self._sparse is not None:
            while (skipped := self._sparse.skip(self.now_ms)) is not None:
                self._batches.append(skipped.load)
                self._pass(self._batches.popleft())
                ended = [self._end(name) for name in skipped.ended]
                if ended or is_alone or self._is_due(due):
                    return ended
            self._sparse.hide()
        if self.ledger is not None:
            self.ledger.set_time(self.now_ms)
        if self._tier_steps is not None:
            self._tier_steps.launch(self.now_ms, self._batches)
        outputs, _ = self.core.step_fn()
        scheduled = self.executor.take_scheduled()
        hidden = EMPTY if self._sparse is None else self._sparse.reveal(scheduled)
        if scheduled is not None:
            for new in scheduled.scheduled_new_reqs:
                outcome = self._running[new.req_id]
                if outcome.first_scheduled_ms is None:
                    outcome.first_scheduled_ms = self.now_ms
            is_timed = self.step_ms is not None or self.on_step is not None
            self._batches.append(self._load(scheduled).plus(hidden) if is_timed else EMPTY)
            if self._tier_steps is not None:
                self.now_ms = self._tier_steps.launched(self.now_ms, self._batches, scheduled)
        # Asynchronous: the batch that was scheduled stays in upstream's queue, and the one before it has ended.
        if len(self._batches) > len(self.core.batch_queue or ()):
            self._pass(self._batches.popleft())
        if self._tier_steps is not None:
            self.now_ms = self._tier_steps.ended(self.now_ms, len(self._batches))
        ended = []
        silent = self._silent
        for group in (outputs or {}).values():
            for output in group.outputs:
                if silent and output.request_id in silent and output.new_token_ids:
                    silent.remove(output.request_id)
                    self._running[output.request_id].first_token_ms = self.now_ms
                if output.finish_reason is not None:
                    ended.append(self._end(output.request_id))
        return ended

    def _pass(self, load: StepLoad) -> None:
        """Moves the clock to the end of a step."""
        start_ms = self.now_ms
        if self.step_ms is not None:
            self.now_ms += self.step_ms(load)
        if self.on_step is not None and load.requests:
            scheduler = self.scheduler
            running, waiting = len(scheduler.running), len(scheduler.waiting)
            self.on_step(Step(start_ms, self.now_ms, load, running, waiting, scheduler.kv_cache_manager.usage))

    def _end(self, name: str) -> RowOutcome:
        outcome = self._running.pop(name)
        request = self._requests.pop(name)
        outcome.end_ms = self.now_ms
        outcome.output_tokens = request.num_output_tokens
        outcome.preemptions = request.num_preemptions
        if self.ledger is not None:
            outcome.admission = self.ledger.forget(name)
        return outcome

    def _load(self, scheduled: SchedulerOutput) -> StepLoad:
        parts = []
        cached = scheduled.scheduled_cached_reqs
        known = zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        new = ((request.req_id, request.num_computed_tokens) for request in scheduled.scheduled_new_reqs)
        for name, context in (*new, *known):
            tokens = scheduled.num_scheduled_tokens[name]
            parts.append((tokens, context, context + tokens >= self._requests[name].num_prompt_tokens))
        return load_of(parts, self.reaches)
