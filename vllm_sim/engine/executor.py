"""An executor without workers: it answers every scheduled step from the trace.

Faithful to vLLM 0.32 (v1/executor/abstract.py, v1/worker/gpu_worker.py): what is scheduled, computed, cached, evicted
and preempted is upstream's own; the token of a request at a position does not depend on how it was scheduled. Not
modelled: sampling, and everything a request can ask of logits. A step is answered at once, or at the pace of a latency
model (pace.py); copies to CPU memory and back take their time (tier.py).
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import KVCacheConfig, KVCacheSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from vllm_sim.engine import compat
from vllm_sim.engine.answers import load_answers
from vllm_sim.engine.copy_clock import CopyClock, WallClock
from vllm_sim.engine.kv_cache import Layers, available_bytes, is_plain, plain_layers
from vllm_sim.engine.options import parse_options
from vllm_sim.engine.pace import make_timing
from vllm_sim.models.work import ModelWork
from vllm_sim.trace.tokens import TokenisedTrace, prompt_digest

if TYPE_CHECKING:
    from vllm_sim.engine.tier import Tier

logger = init_logger("vllm.vllm_sim.executor")

_FRESH_CHUNK_TOKENS = 256


@dataclass(slots=True)
class _Answer:
    """What a request is answered with: tokens[i] is its i-th generated token."""

    prompt_tokens: int
    tokens: list[int]
    goes_on: bool
    """Whether deterministic tokens follow the last one; else nothing after it is ever used."""
    stream: int


class ReplayExecutor(Executor):
    """Answers from the trace that VLLM_SIM_TRACE_PATH names."""

    def _init_executor(self) -> None:
        compat.apply("finish")
        self._options = parse_options(self.vllm_config.additional_config)
        self._answers = load_answers(self.model_config.tokenizer)
        self._layers = self._load_layers()
        self._running: dict[str, _Answer] = {}
        self._sampled: ModelRunnerOutput | None = None
        self._timing = make_timing(self._options, self.vllm_config, self.work)
        self.tier: "Tier | None" = None  # noqa: UP037
        """Blocks in CPU memory, where the configuration names vLLM's OffloadingConnector."""

    def _load_layers(self) -> Layers:
        """What workers would report once they have loaded the model."""
        if is_plain(self.model_config):
            return plain_layers(self.vllm_config)
        from vllm_sim.engine.meta_model import build_layers  # takes its time

        return build_layers(self.vllm_config)

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        return True

    @property
    def work(self) -> ModelWork:
        """What the model would compute on one of its devices."""
        return self._layers.work

    @property
    def trace(self) -> TokenisedTrace:
        return self._answers.trace

    # What a request is answered with

    def admit(self, request: Request, fail: Callable[[], None]) -> None:
        """Chooses the row of a request when it arrives; called by the rebinding in compat.py.

        `fail` ends the request with an error, if that is what it is to meet.

        A recorded response that was cut by its length ends this one by its length too: upstream then stops at
        request.max_tokens, which is lowered here.
        """
        params = request.sampling_params
        if params is None or request.prompt_token_ids is None:
            return
        row = self._choose(request.request_id, request.prompt_token_ids, params)
        if row is not None and self._answers.trace.cut[row] and not params.ignore_eos:
            recorded = max(int(self._answers.trace.response_lengths[row]), params.min_tokens)
            compat.LENGTH.put(request, min(request.max_tokens, recorded))
        if self._timing is not None:
            answered = len(self._running[request.request_id].tokens)
            self._timing.admit(request.request_id, request.prompt_token_ids, answered, fail)

    def _choose(self, request_id: str, prompt_token_ids: list[int], params: SamplingParams) -> int | None:
        """Chooses and notes the answer of a request; returns its row, or None for a prompt that has none."""
        prompt = np.asarray(prompt_token_ids, dtype=np.int32)
        row = self._answers.next_row(prompt)
        if row is not None:
            self._answer(request_id, len(prompt), row, params)
        elif self._options.on_miss == "synthesize":
            stream = int.from_bytes(prompt_digest(prompt), "little")
            self._running[request_id] = _Answer(len(prompt), [], True, stream)
        else:
            logger.error("Request %s has a prompt that is not in the trace: it ends at once.", request_id)
            end = self._answers.vocabulary.eos_token_id or 0
            self._running[request_id] = _Answer(len(prompt), [end], False, 0)
        return row

    def _answer(self, request_id: str, prompt_tokens: int, row: int, params: SamplingParams) -> None:
        answer = _Answer(prompt_tokens, self._answers.trace.response(row).tolist(), False, row)
        self._continue(answer, params)
        self._running[request_id] = answer

    def _continue(self, answer: _Answer, params: SamplingParams) -> None:
        """Lets an answer go on after its recorded end where the request asks for it.

        A recorded end token keeps its place under ignore_eos; min_tokens forbids it before so many tokens, as upstream.
        """
        ends = self._answers.trace.end_token_ids
        end = answer.tokens[-1] if answer.tokens[-1] in ends else None
        text = answer.tokens if end is None else answer.tokens[:-1]
        is_too_short = len(text) < params.min_tokens
        answer.goes_on = params.ignore_eos
        if is_too_short and params.ignore_eos:
            answer.tokens = text
        elif is_too_short:
            fresh = self._answers.vocabulary.filler.fresh(answer.stream, len(text), params.min_tokens - len(text))
            answer.tokens = text + fresh.tolist() + ([] if end is None else [end])

    def answer_tokens(self, request_id: str) -> list[int]:
        """What a request is answered with, as far as it is known: the i-th generated token at place i."""
        return self._running[request_id].tokens

    def token(self, request_id: str, place: int) -> int:
        """The token at a place of a request's answer, after its recorded end too."""
        answer = self._running[request_id]
        return answer.tokens[place] if place < len(answer.tokens) else self._token_behind(answer, place)

    def _token_behind(self, answer: _Answer, position: int) -> int:
        """The token at a position that has none yet."""
        if not answer.goes_on:
            return 0  # asynchronous scheduling asks for one more than it uses
        fresh = self._answers.vocabulary.filler.fresh
        while position >= len(answer.tokens):
            answer.tokens += fresh(answer.stream, len(answer.tokens), _FRESH_CHUNK_TOKENS).tolist()
        return answer.tokens[position]

    # A step

    @overload
    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: Literal[False] = False
    ) -> ModelRunnerOutput | None: ...

    @overload
    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: Literal[True] = True
    ) -> Future[ModelRunnerOutput | None]: ...

    def execute_model(
        self, scheduler_output: SchedulerOutput, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput | None] | None:
        output = self._step(scheduler_output)
        moved = None if self.tier is None else self.tier.step(scheduler_output)
        if output is None:
            result: ModelRunnerOutput | None = ModelRunnerOutput.with_kv_conn_output_only(moved)
        else:
            self._sampled, result = output, None  # the tokens are fetched by sample_tokens
            if moved is not None:
                self._sampled = replace(output, kv_connector_output=moved)
        return done(result) if non_block else result

    @overload
    def sample_tokens(
        self, grammar_output: GrammarOutput | None, non_block: Literal[False] = False
    ) -> ModelRunnerOutput: ...

    @overload
    def sample_tokens(
        self, grammar_output: GrammarOutput | None, non_block: Literal[True] = True
    ) -> Future[ModelRunnerOutput]: ...

    def sample_tokens(
        self, grammar_output: GrammarOutput | None, non_block: bool = False
    ) -> ModelRunnerOutput | Future[ModelRunnerOutput]:
        result, self._sampled = self._sampled, None
        assert result is not None
        if self._timing is not None:
            paced = self._timing.result(result)
            return paced if non_block else paced.result()
        return done(result) if non_block else result

    def _step(self, output: SchedulerOutput) -> ModelRunnerOutput | None:
        """The tokens of a step.

        A request samples where the step computes the last of its known tokens: prompt and output so far, which a
        request that returns from a preemption computes again, maybe in chunks that end inside the output. The token is
        the one at computed + scheduled - prompt tokens; the executor counts nothing itself, because a preemption sets
        the count back.
        """
        running = self._running
        for request_id in output.finished_req_ids:
            running.pop(request_id, None)
        scheduled = output.num_scheduled_tokens
        if not scheduled:
            return None
        cached = output.scheduled_cached_reqs
        request_ids: list[str] = []
        computed: list[int] = []
        generated: list[int] = []
        for new in output.scheduled_new_reqs:
            assert new.prompt_token_ids is not None
            if new.req_id not in running:
                assert new.sampling_params is not None
                self._choose(new.req_id, new.prompt_token_ids, new.sampling_params)
            request_ids.append(new.req_id)
            computed.append(new.num_computed_tokens)
            # Model runner V2: a request that returns comes as a new one, with its output in prefill_token_ids.
            generated.append(len(new.prefill_token_ids or new.prompt_token_ids) - len(new.prompt_token_ids))
        request_ids += cached.req_ids
        computed += cached.num_computed_tokens
        generated += cached.num_output_tokens  # placeholders of tokens that are still computed included
        sampled: list[list[int]] = []
        for request_id, start, output_tokens in zip(request_ids, computed, generated, strict=True):
            answer = running[request_id]
            position = start + scheduled[request_id] - answer.prompt_tokens
            if position < output_tokens:
                sampled.append([])
                continue
            try:
                sampled.append([answer.tokens[position]])
            except IndexError:
                sampled.append([self._token_behind(answer, position)])
        if self._timing is not None:
            self._timing.step(output, request_ids, computed, sampled)
        return output_of(request_ids, sampled)

    def execute_dummy_batch(self) -> None:
        pass

    # What workers would answer

    def get_kv_cache_specs(self) -> list[dict[str, KVCacheSpec]]:
        return [self._layers.specs]

    def determine_available_memory(self) -> list[int]:
        return [available_bytes(self.vllm_config, self._layers.specs)]

    def get_supported_kv_cache_layouts(self) -> list[list[str]]:
        return [self._layers.layouts]

    def set_kv_cache_layout(self, layout_name: str, *args: Any, **kwargs: Any) -> None:
        """Workers would take the layout; vLLM 0.33 adds how context parallelism interleaves, which is refused."""

    def initialize_from_config(self, kv_cache_configs: list[KVCacheConfig]) -> None:
        if self.vllm_config.kv_transfer_config is not None:
            from vllm_sim.engine.tier import Tier  # imports upstream's connector

            gb_per_s = self._options.offload_gbps or float("inf")
            self.tier = Tier(self.vllm_config, kv_cache_configs[0], gb_per_s, self._copy_clock())
        if not logger.isEnabledFor(logging.INFO):
            return  # the prompts are counted for this line
        blocks, tokens = kv_cache_configs[0].num_blocks - 1, self.cache_config.block_size
        logger.info(
            "vllm_sim replays %s: %d requests, %d different prompts; KV cache of %d blocks of %d tokens (%d tokens), "
            "and the null block.",
            self._answers.path,
            len(self._answers.trace),
            self._answers.prompts,
            blocks,
            tokens,
            blocks * tokens,
        )

    def _copy_clock(self) -> CopyClock:
        """What gives the time of copies; called once."""
        return WallClock()

    def compile_or_warm_up_model(self) -> None:
        pass

    def collective_rpc(
        self,
        method: str | Callable[..., Any],
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        if method not in _REPLIES:
            raise NotImplementedError(f"{method} asks a worker, and vllm_sim has none")
        result = [_REPLIES[method]]
        return done(result) if non_block else result

    def check_health(self) -> None:
        pass

    def shutdown(self) -> None:
        self._running = {}
        if self._timing is not None:
            self._timing.report()
        if self.tier is not None:
            self.tier.shutdown()


_REPLIES: dict[Any, Any] = {
    "get_supported_tasks": ("generate",),
    "get_kv_connector_handshake_metadata": None,
    "synchronize_device": None,
    "reset_mm_cache": None,
    "reset_encoder_cache": None,
    "profile": None,
    "sleep": None,
    "wake_up": None,
    "discard": None,
    "supports_draft_weight_updates": False,
    "update_max_model_len": None,
}
"""What a worker would reply, by method."""


def output_of(request_ids: list[str], sampled: list[list[int]]) -> ModelRunnerOutput:
    """What workers give of a step: the tokens of each request."""
    return ModelRunnerOutput(
        req_ids=request_ids,
        req_id_to_index={request_id: i for i, request_id in enumerate(request_ids)},
        sampled_token_ids=sampled,
    )


def done(result: Any) -> Future[Any]:
    """A future that has its result."""
    future: Future[Any] = Future()
    future.set_result(result)
    return future
