"""The executor of a replay: each request is answered with the row that it is named after.

Faithful to vLLM 0.32: ReplayExecutor gives the answers, as in a server. Only the choice of the row, the memory of an
unlimited cache and the clock of copies differ.
"""

from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.core.sched.output import SchedulerOutput

from vllm_sim.engine.copy_clock import VirtualClock
from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.kv_cache import ample_bytes


class RowExecutor(ReplayExecutor):
    """Answers the request named "7" with row 7, and keeps what was scheduled until the driver takes it."""

    _scheduled: SchedulerOutput | None = None
    clock: VirtualClock
    """Of the copies between tiers, where there are any; the driver sets it."""

    def _choose(self, request_id: str, prompt_token_ids: list[int], params: SamplingParams) -> int | None:
        row = int(request_id)
        self._answer(request_id, len(prompt_token_ids), row, params)
        return row

    def _step(self, output: SchedulerOutput) -> Any:
        self._scheduled = output
        return super()._step(output)

    def stop_token(self, row: int) -> int | None:
        """The end token that ends a row's answer; None where its length does."""
        if self.trace.is_made(row):
            return self._answers.vocabulary.eos_token_id if self.trace.has_end[row] else None
        last = int(self.trace.response(row)[-1])
        return last if last in self.trace.end_token_ids and not self.trace.cut[row] else None

    def determine_available_memory(self) -> list[int]:
        if self.cache_config.num_gpu_blocks_override is not None:
            return super().determine_available_memory()
        lengths = (self.trace.prompt_lengths + self.trace.response_lengths).tolist()
        return [ample_bytes(self.vllm_config, self._layers.specs, lengths)]

    def _copy_clock(self) -> VirtualClock:
        self.clock = VirtualClock()
        return self.clock

    def take_scheduled(self) -> SchedulerOutput | None:
        """What was scheduled since the last call, if anything was."""
        scheduled, self._scheduled = self._scheduled, None
        return scheduled

    def held_requests(self) -> list[str]:
        """Requests whose answers are kept; one that has ended is dropped with the next step."""
        return list(self._running)

    def forget(self, request_id: str) -> None:
        """Drops the answer of a request that will not be scheduled."""
        self._running.pop(request_id, None)
