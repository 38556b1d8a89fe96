"""Any engine gives every request exactly its recorded tokens: vLLM's EngineCore, drawn at random with its traffic."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.core import EngineCore

from tests.engine.conftest import MODEL
from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.registry import POLICIES

EOT = 128009
PREFIXES = [range(1000, 1000 + length) for length in (0, 3, 16, 40)]
POLICY_NAMES = [name for name in POLICIES if name != "belady"]


@dataclass(frozen=True)
class Ask:
    """One request; `copies` of it arrive at once, as `n` does."""

    prefix: int
    tail_tokens: int
    own: int
    """Prompts with the same three numbers are the same prompt."""
    output_tokens: int
    is_cut: bool
    step: int
    copies: int
    priority: int
    salt: str | None
    abort_after_steps: int | None
    ignores_end: bool

    @property
    def prompt(self) -> list[int]:
        return [*PREFIXES[self.prefix], *range(2000 + 100 * self.own, 2000 + 100 * self.own + self.tail_tokens)]

    def response(self, row: int) -> list[int]:
        tokens = [5000 + (37 * row + place) % 900 for place in range(self.output_tokens)]
        return tokens if self.is_cut else [*tokens[:-1], EOT]


@dataclass(frozen=True)
class Engine:
    block_size: int
    spare_blocks: int
    """Blocks besides those that the longest request needs."""
    max_num_seqs: int
    max_num_batched_tokens: int
    long_prefill_token_threshold: int
    scheduling_policy: str
    async_scheduling: bool
    eviction: str


asks = st.builds(
    Ask,
    prefix=st.integers(0, len(PREFIXES) - 1),
    tail_tokens=st.integers(1, 30),
    own=st.integers(0, 5),
    output_tokens=st.integers(1, 90),
    is_cut=st.booleans(),
    step=st.integers(0, 30),
    copies=st.sampled_from((1, 1, 1, 2, 3)),
    priority=st.integers(0, 2),
    salt=st.sampled_from((None, None, None, "a", "b")),
    abort_after_steps=st.one_of(st.none(), st.none(), st.integers(0, 60)),
    ignores_end=st.booleans(),
)
engines = st.builds(
    Engine,
    block_size=st.sampled_from((1, 2, 3, 4, 8, 16)),
    spare_blocks=st.sampled_from((0, 1, 4, 1000)),
    max_num_seqs=st.integers(1, 8),
    max_num_batched_tokens=st.sampled_from((8, 9, 16, 25, 32, 64, 512)),
    long_prefill_token_threshold=st.sampled_from((0, 0, 5, 16)),
    scheduling_policy=st.sampled_from(("fcfs", "priority")),
    async_scheduling=st.booleans(),
    eviction=st.sampled_from(POLICY_NAMES),
)


@dataclass
class Seen:
    """What a run has met, so that the test can tell that it met it."""

    preemptions: int = 0
    chunks_inside_output: int = 0


class WatchedExecutor(ReplayExecutor):
    """Compares each step's answer with the scheduler's own word on who is still in its prefill."""

    scheduler: Scheduler
    seen: Seen

    def _step(self, output: SchedulerOutput) -> Any:
        answer = super()._step(output)
        for name, tokens in zip(answer.req_ids, answer.sampled_token_ids, strict=True) if answer else ():
            request = self.scheduler.requests[name]
            assert len(tokens) == (not request.is_prefill_chunk)
            inside = request.num_preemptions and request.num_computed_tokens > request.num_prompt_tokens
            self.seen.chunks_inside_output += bool(inside and not tokens)
        return answer


@dataclass
class Live:
    """A request on its way."""

    ask: Ask
    expected: list[int]
    max_tokens: int
    tokens: list[int] = field(default_factory=list)
    end: str | None = None
    age_steps: int = 0


def make_core(folder: Path, engine: Engine, rows: list[Ask]) -> EngineCore:
    trace = folder / "trace.jsonl"
    with trace.open("w") as file:
        for row, ask in enumerate(rows):
            reason = "length" if ask.is_cut else "stop"
            record = {"prompt_token_ids": ask.prompt, "response_token_ids": ask.response(row), "finish_reason": reason}
            file.write(json.dumps(record) + "\n")
    longest = max(len(ask.prompt) + max_tokens_of(ask) for ask in rows) + 2
    arguments = EngineArgs(
        model=str(MODEL),
        block_size=engine.block_size,
        num_gpu_blocks_override=-(-longest // engine.block_size) + 1 + engine.spare_blocks,
        max_model_len=longest,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        long_prefill_token_threshold=min(engine.long_prefill_token_threshold, longest),
        scheduling_policy=engine.scheduling_policy,
        async_scheduling=engine.async_scheduling,
        disable_log_stats=True,
        additional_config={"vllm_sim": {"eviction": engine.eviction, "on_inexact": "warn"}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TRACE_VARIABLE, str(trace))
        return EngineCore(arguments.create_engine_config(), WatchedExecutor, log_stats=False)


def max_tokens_of(ask: Ask) -> int:
    return ask.output_tokens + (20 if ask.ignores_end else 5)


def serve(core: EngineCore, engine: Engine, rows: list[Ask]) -> list[Live]:
    """Serves all requests, aborting some; returns them as they ended."""
    served: Counter[tuple[int, ...]] = Counter()
    lives: dict[str, Live] = {}
    waiting = sorted((row for row in range(len(rows))), key=lambda row: rows[row].step)
    number = steps = 0
    while waiting or core.scheduler.has_requests() or core.batch_queue:
        while waiting and (rows[waiting[0]].step <= steps or not core.scheduler.has_requests()):
            ask = rows[waiting.pop(0)]
            same = [row for row, other in enumerate(rows) if other.prompt == ask.prompt]
            for _ in range(ask.copies):
                row = same[served[tuple(ask.prompt)] % len(same)]
                served[tuple(ask.prompt)] += 1
                lives[str(number)] = Live(ask, rows[row].response(row), max_tokens_of(ask))
                core.add_request(*core.preprocess_add_request(request(str(number), engine, ask)))
                number += 1
        outputs, executed = core.step_fn()
        core.post_step(executed)
        steps += 1
        assert steps < 20_000
        for output in (one for group in (outputs or {}).values() for one in group.outputs):
            live = lives[output.request_id]
            live.tokens += output.new_token_ids
            live.end = live.end or (str(output.finish_reason) if output.finish_reason is not None else None)
        for name, live in lives.items():
            live.age_steps += 1
            if live.age_steps == live.ask.abort_after_steps and live.end is None:
                live.end = "abort"
                core.abort_requests([name])
    return list(lives.values())


def request(name: str, engine: Engine, ask: Ask) -> EngineCoreRequest:
    params = SamplingParams(max_tokens=max_tokens_of(ask), ignore_eos=ask.ignores_end)
    params.update_from_generation_config({}, EOT)
    return EngineCoreRequest(
        request_id=name,
        prompt_token_ids=ask.prompt,
        mm_features=None,
        sampling_params=params,
        pooling_params=None,
        arrival_time=float(name),
        lora_request=None,
        cache_salt=ask.salt,
        data_parallel_rank=None,
        priority=ask.priority if engine.scheduling_policy == "priority" else 0,
    )


def check(folder: Path, engine: Engine, rows: list[Ask], seen: Seen) -> None:
    core = make_core(folder, engine, rows)
    try:
        executor = core.model_executor
        assert isinstance(executor, WatchedExecutor)
        assert isinstance(core.scheduler, Scheduler)
        executor.scheduler, executor.seen = core.scheduler, seen
        preempt = core.scheduler._preempt_request

        def counted(*args: Any, **kwargs: Any) -> None:
            seen.preemptions += 1
            preempt(*args, **kwargs)

        core.scheduler._preempt_request = counted  # type: ignore[method-assign]
        for live in serve(core, engine, rows):
            check_tokens(live)
        assert not core.scheduler.has_requests()
        pool = core.scheduler.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == pool.num_gpu_blocks - 1
    finally:
        core.shutdown()


def check_tokens(live: Live) -> None:
    if live.end == "abort":
        assert live.tokens[: len(live.expected)] == live.expected[: len(live.tokens)]
    elif live.ask.ignores_end:
        assert len(live.tokens) == live.max_tokens
        assert live.tokens[: len(live.expected)] == live.expected[: live.max_tokens]
    else:
        assert live.tokens == live.expected[: live.max_tokens]


@pytest.fixture
def folder(tmp_path: Path, environment: pytest.MonkeyPatch) -> Path:
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return tmp_path


# An engine takes a second to configure, so nothing is shrunk: an example says all that is needed to repeat it.
DRAWN: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck), "phases": [Phase.generate]}


@settings(max_examples=12, derandomize=True, **DRAWN)
@given(engine=engines, rows=st.lists(asks, min_size=1, max_size=30))
def test_every_request_has_its_recorded_tokens_whatever_the_engine(
    folder: Path, engine: Engine, rows: list[Ask]
) -> None:
    check(folder, engine, rows, Seen())


@pytest.mark.slow
@settings(max_examples=400, **DRAWN)
@given(engine=engines, rows=st.lists(asks, min_size=1, max_size=60))
def test_every_request_has_its_recorded_tokens_in_hundreds_of_engines(
    folder: Path, engine: Engine, rows: list[Ask]
) -> None:
    check(folder, engine, rows, Seen())


@pytest.mark.parametrize("is_async", [False, True], ids=["synchronous", "asynchronous"])
def test_chunks_that_end_inside_the_output_of_a_preempted_request_sample_nothing(folder: Path, is_async: bool) -> None:
    seen = Seen()
    rows = [Ask(0, 16, own, 200, True, 0, 1, 0, None, None, False) for own in range(3)]
    engine = Engine(8, 40 - 28, 3, 32, 0, "fcfs", is_async, "lru")
    check(folder, engine, rows, seen)
    assert seen.preemptions > 0
    assert seen.chunks_inside_output > 0
