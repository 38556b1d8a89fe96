"""The virtual time of copies between the GPU's and the CPU's memory, around the steps that a driver takes.

Faithful to vLLM 0.32 (v1/engine/core.py, v1/kv_offload/cpu/gpu_worker.py, read): a step is launched when the host comes
to it, and with asynchronous scheduling while the step before it is computed; jobs that have ended by then are reported
in it. A flush stalls the host, and with it the step. An engine that only waits for copies steps on; upstream polls each
millisecond, and here its next step is at the next end of a copy, or at the next arrival.
"""

from collections.abc import Callable, Sequence

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingConnectorMetadata
from vllm.v1.core.sched.output import SchedulerOutput

from vllm_sim.engine.backends.row_executor import RowExecutor
from vllm_sim.engine.copy_clock import VirtualClock
from vllm_sim.step_load import StepLoad


class TierSteps:
    """Sets the clock of an executor's tier, and says until when only copies go on.

    Attributes:
        idle_until_ms: The next end of a copy where the last step waited for nothing else; None: it did.

    Args:
        executor: One with a tier.
        step_ms: The time of a step; None: none.
    """

    def __init__(self, executor: RowExecutor, step_ms: Callable[[StepLoad], float] | None):
        assert executor.tier is not None
        self._clock: VirtualClock = executor.clock
        self._copies, self._step_ms = executor.tier.copies, step_ms
        self._in_flight: list[bool] = []
        """Whether the steps that have not ended compute anything, tell of a copy that has ended, or prepare one."""
        self._told_jobs = 0
        self.idle_until_ms: float | None = None

    def launch(self, now_ms: float, batches: Sequence[StepLoad]) -> None:
        """A step is about to be scheduled and launched while these are computed."""
        self._clock.now_ms = now_ms
        self._clock.computed_ms = now_ms + self._time(batches)

    def launched(self, now_ms: float, batches: Sequence[StepLoad], scheduled: SchedulerOutput) -> float:
        """It is launched, the last of `batches`.

        Returns:
            The time at which the first of `batches` starts: later than now where a flush has stalled the only one.
        """
        metadata = scheduled.kv_connector_metadata
        assert isinstance(metadata, OffloadingConnectorMetadata)
        start_ms = max(self._clock.computed_ms, self._clock.now_ms)
        before = self._told_jobs
        if self._copies is not None:
            self._copies.start_loads(start_ms + self._time([batches[-1]]))
            self._told_jobs = self._copies.told_jobs
        self._in_flight.append(
            scheduled.total_num_scheduled_tokens > 0 or bool(metadata.store_jobs) or self._told_jobs > before
        )
        return start_ms if len(batches) == 1 else now_ms

    def ended(self, now_ms: float, waiting_batches: int) -> float:
        """A step has been taken.

        Args:
            now_ms: Its end.
            waiting_batches: Steps that are launched and have not ended.

        Returns:
            Its end, later where the host was stalled.
        """
        now_ms = max(now_ms, self._clock.now_ms)
        is_idle = len(self._in_flight) > waiting_batches and not any(self._in_flight)
        del self._in_flight[: len(self._in_flight) - waiting_batches]
        self.idle_until_ms = None if self._copies is None or not is_idle else self._copies.next_end_ms()
        return now_ms

    def _time(self, batches: Sequence[StepLoad]) -> float:
        return 0.0 if self._step_ms is None else sum(map(self._step_ms, batches))
