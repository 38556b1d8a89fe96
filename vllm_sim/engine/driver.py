"""vLLM's EngineCore in this process, stepped by a virtual clock: the `engine` backend.

Faithful to vLLM 0.32 (v1/engine/core.py, core_client.py, read): EngineCore, its scheduler, its KV-cache manager and its
block pool are upstream's and are called as InprocClient calls them. Each request is answered with its own row. Time
is modelled: a step takes what the latency model says, requests arrive between steps, and tokens appear at the end of
theirs. Not modelled: the front end (tokenising, HTTP), and asynchronous scheduling. One value is set behind upstream's
back: the scheduler's max_model_len, because vLLM does not start where a request of that length needs more than the
cache has, and here such a request is rejected by itself and counted.
"""

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from vllm.config import KVEventsConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.ledger import Admission, Ledger
from vllm_sim.engine.options import KEY
from vllm_sim.engine.platform import ReplayPlatform
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.trace.tokens import TokenisedTrace


class Arrival(NamedTuple):
    """When a row arrives: at a time, or some time after the answer to another row."""

    row: int
    after_row: int | None
    """Row whose answer it waits for, or None."""
    ms: float
    """Time from the start; with after_row the time from its end."""


@dataclass(slots=True)
class Served:
    """What happened to a row; times in virtual milliseconds."""

    row: int
    arrival_ms: float
    rejected: bool = False
    first_scheduled_ms: float = 0.0
    first_token_ms: float = 0.0
    end_ms: float = 0.0
    output_tokens: int = 0
    preemptions: int = 0
    admission: Admission | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The engine's configuration."""

    capacity_blocks: int
    block_size: int
    max_model_len: int
    model_positions: int
    """What the model's own configuration allows."""
    max_num_seqs: int
    max_num_batched_tokens: int
    policy: str = "lru"
    policy_params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    attribution: bool = True


class RowExecutor(ReplayExecutor):
    """Answers the request named "7" with row 7, and keeps what was scheduled last."""

    scheduled: SchedulerOutput | None = None

    def _choose(self, request_id: str, prompt_token_ids: list[int], params: SamplingParams) -> int | None:
        row = int(request_id)
        self._answer(request_id, len(prompt_token_ids), row, params)
        return row

    def _step(self, output: SchedulerOutput) -> Any:
        self.scheduled = output
        return super()._step(output)


def make_core(trace: Path, model: str, setup: Setup) -> EngineCore:
    """Builds the engine over a trace.

    Raises:
        RuntimeError: vllm was imported before VLLM_SIM_TRACE_PATH was set, and has chosen another platform.
    """
    if not isinstance(current_platform, ReplayPlatform):
        raise RuntimeError(
            f"vllm runs on {type(current_platform).__name__}: set {TRACE_VARIABLE} before vllm is imported"
        )
    os.environ[TRACE_VARIABLE] = str(trace)
    startable = min(setup.max_model_len, setup.capacity_blocks * setup.block_size)
    options = {"on_inexact": "warn", "eviction": setup.policy, "eviction_params": setup.policy_params}
    arguments = EngineArgs(
        model=model,
        tokenizer=model,
        seed=setup.seed,
        block_size=setup.block_size,
        num_gpu_blocks_override=setup.capacity_blocks + 1,  # and the null block
        max_model_len=startable,
        hf_overrides={"max_position_embeddings": startable} if startable > setup.model_positions else {},
        max_num_seqs=setup.max_num_seqs,
        max_num_batched_tokens=setup.max_num_batched_tokens,
        async_scheduling=False,
        disable_log_stats=True,
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null") if setup.attribution else None,
        additional_config={KEY: options},
    )
    core = EngineCore(arguments.create_engine_config(), RowExecutor, log_stats=False)
    core.scheduler.max_model_len = setup.max_model_len
    return core


class Driver:
    """Feeds rows to an engine as they arrive, and steps it.

    Args:
        core: What make_core built.
        trace: The rows' tokens.
        step_ms: The time of a step in milliseconds, from what it computes: for each request its new tokens, the
            tokens of context before them, and whether a token is sampled. None: steps take no time.
        salts: cache_salt and priority by row.
        concurrency: Rows that may be served at once; None for no bound.
        progress: Called with the number of rows done.
    """

    def __init__(
        self,
        core: EngineCore,
        trace: TokenisedTrace,
        step_ms: Callable[[list[tuple[int, int, bool]]], float] | None,
        salts: Sequence[tuple[str | None, int]],
        concurrency: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ):
        self.core, self.trace, self.step_ms, self.salts = core, trace, step_ms, salts
        self.concurrency, self.progress = concurrency, progress
        config = core.vllm_config
        self.block_size = config.cache_config.block_size
        self.capacity_blocks = config.cache_config.num_gpu_blocks_override - 1
        self.ledger: Ledger | None = None
        if config.kv_events_config is not None:
            self.ledger = Ledger(self.block_size)
            self.ledger.watch(core.scheduler.kv_cache_manager)
        self.now_ms = 0.0
        self._running: dict[str, Served] = {}
        self._requests: dict[str, Any] = {}

    def run(self, arrivals: Sequence[Arrival]) -> Iterator[Served]:
        """Serves all rows; yields each as it ends. Ties in time are served in the order of rows."""
        waiting: dict[int, list[Arrival]] = {}
        due: list[tuple[float, int]] = []
        for arrival in arrivals:
            if arrival.after_row is None:
                heapq.heappush(due, (arrival.ms, arrival.row))
            else:
                waiting.setdefault(arrival.after_row, []).append(arrival)
        done = 0
        while due or self._running:
            for served in [*self._admit(due), *self._step()]:
                # A closed loop sends rows in their order, as places get free; only an open one waits for times.
                base_ms = served.end_ms if self.concurrency is None else 0.0
                for arrival in waiting.pop(served.row, ()):
                    heapq.heappush(due, (base_ms + arrival.ms, arrival.row))
                done += 1
                self.progress(done)
                yield served

    def _admit(self, due: list[tuple[float, int]]) -> list[Served]:
        """Adds what has arrived; returns what cannot fit. The clock jumps where the engine is idle."""
        if not self._running and due and due[0][0] > self.now_ms:
            self.now_ms = due[0][0]
        rejected = []
        while due and due[0][0] <= self.now_ms:
            if self.concurrency is not None and len(self._running) >= self.concurrency:
                break
            arrival_ms, row = heapq.heappop(due)
            # A closed loop sends a row when a place is free.
            served = Served(row, arrival_ms if self.concurrency is None else max(arrival_ms, self.now_ms))
            request, wave = self.core.preprocess_add_request(self._request(row))
            computed = len(self.trace.prompt(row)) + len(self.trace.response(row)) - 1
            if -(-computed // self.block_size) > self.capacity_blocks or computed >= self.core.scheduler.max_model_len:
                served.rejected = True
                served.end_ms = self.now_ms
                if self.ledger is not None:
                    served.admission = self.ledger.look_at_rejected(request)
                rejected.append(served)
                continue
            self._running[request.request_id] = served
            self._requests[request.request_id] = request
            self.core.add_request(request, wave)
        return rejected

    def _request(self, row: int) -> EngineCoreRequest:
        salt, priority = self.salts[row]
        return EngineCoreRequest(
            request_id=str(row),
            prompt_token_ids=self.trace.prompt(row).tolist(),
            mm_features=None,
            sampling_params=SamplingParams(max_tokens=len(self.trace.response(row))),
            pooling_params=None,
            arrival_time=self.now_ms,
            lora_request=None,
            cache_salt=salt,
            data_parallel_rank=None,
            priority=priority,
        )

    def _step(self) -> list[Served]:
        """One step of the engine; the clock moves to its end. Returns the rows that ended in it."""
        if not self._running:
            return []
        start_ms = self.now_ms
        outputs, _ = self.core.step_fn()
        scheduled = self.core.model_executor.scheduled
        for new in scheduled.scheduled_new_reqs:
            self._running[new.req_id].first_scheduled_ms = start_ms
        if self.step_ms is not None:
            self.now_ms = start_ms + self.step_ms(self._load(scheduled))
        ended = []
        for output in (one for group in (outputs or {}).values() for one in group.outputs):
            served = self._running[output.request_id]
            if output.new_token_ids and not served.output_tokens:
                served.first_token_ms = self.now_ms
            served.output_tokens += len(output.new_token_ids)
            if output.finish_reason is not None:
                ended.append(self._end(output.request_id))
        return ended

    def _end(self, name: str) -> Served:
        served, request = self._running.pop(name), self._requests.pop(name)
        served.end_ms = self.now_ms
        served.preemptions = request.num_preemptions
        if self.ledger is not None:
            served.admission = self.ledger.admissions.pop(name)
        return served

    def _load(self, scheduled: SchedulerOutput) -> list[tuple[int, int, bool]]:
        """What the step computes: for each request its new tokens, its context, and whether it samples."""
        load = []
        cached = scheduled.scheduled_cached_reqs
        known = zip(cached.req_ids, cached.num_computed_tokens, strict=True)
        new = ((request.req_id, request.num_computed_tokens) for request in scheduled.scheduled_new_reqs)
        for name, context in (*new, *known):
            tokens = scheduled.num_scheduled_tokens[name]
            load.append((tokens, context, context + tokens >= self._requests[name].num_prompt_tokens))
        return load
