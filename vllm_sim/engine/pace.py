"""A server that keeps time: the result of a step is there when the latency model says so, in wall time.

The steps follow one another as on a device: one begins when it is given, but not before the one before it has ended. A
step that goes on with requests of the step before it begins with that one's end, however long Python took in between:
what scheduling and answering take is part of the model's time and not added to it. Where Python needs more than that
for long, steps end late; by more than MOST_BEHIND_S they are not made up for, and the log says so.

The latency model is one of `vllm_sim.replay.latency`, a layer above: it is named here and imported when it is used.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.v1.core.sched.output import SchedulerOutput

from vllm_sim.engine.failures import Failures, Kind
from vllm_sim.engine.options import PluginOptions
from vllm_sim.models.work import ModelWork
from vllm_sim.provenance import load_entry
from vllm_sim.step_load import Reach, StepLoad, load_of
from vllm_sim.trace.tokens import prompt_digest

logger = init_logger("vllm.vllm_sim.pace")

MOST_BEHIND_S = 0.25
_LATENCY = "vllm_sim.replay.latency:make_latency"
_TABLE = "vllm_sim.replay.latency:load_table"


class Pacer:
    """The clock of a device.

    Attributes:
        steps: How many were begun.
        model_s: What they take by the latency model, pace and delays included.
        python_s: What passed between the end of a step and the beginning of the next one that goes on with it.
        late_s: How much of that the steps could not make up for.
    """

    def __init__(
        self,
        step_ms: Callable[[StepLoad], float],
        pace: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._step_ms, self._pace, self._clock, self._sleep = step_ms, pace, clock, sleep
        self._end_s = float("-inf")
        self.steps, self.model_s, self.python_s, self.late_s = 0, 0.0, 0.0, 0.0

    def begin(self, load: StepLoad, goes_on: bool, delay_ms: float = 0.0) -> float:
        """Begins a step; returns when it ends, by the clock.

        Args:
            load: What it computes.
            goes_on: Whether it has a request of an earlier step.
            delay_ms: What is added to it.
        """
        now, took_s = self._clock(), (self._step_ms(load) * self._pace + delay_ms) / 1000
        start = max(now, self._end_s)
        if goes_on and now > self._end_s:
            self.python_s += now - self._end_s
            start = max(self._end_s, now - MOST_BEHIND_S)
        self._end_s = start + took_s
        self.steps, self.model_s = self.steps + 1, self.model_s + took_s
        self.late_s += max(0.0, now - self._end_s)
        return self._end_s

    def wait(self, end_s: float) -> None:
        """Returns at a time of the clock, or at once where it has passed."""
        left = end_s - self._clock()
        if left > 0:
            self._sleep(left)

    def report(self) -> None:
        """Logs how well time was kept."""
        if self.steps:
            logger.info(
                "Pace: %d steps of %.2f s by the latency model; Python took %.2f s between them, %.2f s too late.",
                self.steps,
                self.model_s,
                self.python_s,
                self.late_s,
            )


class PacedResult(Future[Any]):
    """A result that is there at a time: upstream waits for it by `result`."""

    def __init__(self, value: Any, pacer: Pacer, end_s: float):
        super().__init__()
        self.set_result(value)
        self._pacer, self._end_s = pacer, end_s

    def result(self, timeout: float | None = None) -> Any:
        self._pacer.wait(self._end_s)
        return super().result(timeout)


class Timing:
    """When the results of an executor's steps are there, and which of its requests fail on purpose."""

    def __init__(self, pacer: Pacer, failures: Failures, reaches: tuple[Reach, ...] = ()):
        self.pacer = pacer
        self._failures, self._reaches = failures, reaches
        self._failing: dict[str, _Failing] = {}
        self._end_s = 0.0

    def admit(self, request_id: str, prompt: list[int], answer_tokens: int, fail: Callable[[], None]) -> None:
        """Notes what a request is to meet.

        Args:
            request_id: Its name.
            prompt: Its tokens.
            answer_tokens: How many tokens its answer has.
            fail: Ends it with an error.
        """
        kind = self._failures.draw(prompt_digest(np.asarray(prompt, dtype=np.int32)))
        if kind in ("abort", "delay"):
            self._failing[request_id] = _Failing(kind, len(prompt), answer_tokens // 2, fail)

    def step(
        self, output: SchedulerOutput, request_ids: list[str], computed: list[int], sampled: list[list[int]]
    ) -> None:
        """Begins a step, and lets requests fail that are to.

        Args:
            output: What is scheduled.
            request_ids: [n]
            computed: Tokens of each request that are computed already, [n].
            sampled: Its tokens of this step, [n].
        """
        scheduled, delay_ms = output.num_scheduled_tokens, 0.0
        for request_id in output.finished_req_ids:
            self._failing.pop(request_id, None)
        if self._failing:
            for request_id, start, tokens in zip(request_ids, computed, sampled, strict=True):
                failing = self._failing.get(request_id)
                if failing is not None and tokens:
                    position = start + scheduled[request_id] - failing.prompt_tokens
                    if failing.kind == "delay" and position == 0:
                        delay_ms = self._failures.delay_ms
                    elif failing.kind == "abort" and position >= failing.abort_at:
                        failing.fail()
        parts = zip(request_ids, computed, sampled, strict=True)
        load = load_of(((scheduled[name], start, bool(tokens)) for name, start, tokens in parts), self._reaches)
        self._end_s = self.pacer.begin(load, bool(output.scheduled_cached_reqs.req_ids), delay_ms)

    def result(self, value: Any) -> PacedResult:
        """The result of the step that was begun last."""
        return PacedResult(value, self.pacer, self._end_s)

    def report(self) -> None:
        """Logs how well time was kept, where it was to be kept."""
        self.pacer.report()


class _Failing(NamedTuple):
    kind: Kind
    prompt_tokens: int
    abort_at: int
    """Generated tokens after which it ends."""
    fail: Callable[[], None]


def make_timing(options: PluginOptions, config: VllmConfig, work: ModelWork) -> Timing | None:
    """What the options ask for; None where steps are answered at once and no request fails.

    Args:
        options: of the plugin.
        config: vLLM's, whose devices the roofline is of.
        work: What the model computes on one of them.

    Raises:
        ValueError: the latency model does not go with the device, the model or the file.
    """
    if not options.pace and not options.failures:
        return None
    failures = Failures(options.failures)
    if not options.pace:
        return Timing(Pacer(lambda load: 0.0, 1.0), failures)
    table = None if options.latency_file is None else load_entry(_TABLE)(Path(options.latency_file))
    devices = config.parallel_config.tensor_parallel_size
    latency = load_entry(_LATENCY)(
        options.latency_model, work, options.device, table, devices, options.host_overhead_ms
    )
    return Timing(Pacer(latency.step_ms, options.pace), failures, latency.reaches)
