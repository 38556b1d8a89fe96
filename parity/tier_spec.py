"""CPU memory of which nothing is copied, for all sides of a comparison: vLLM's own manager, and a worker that ends each
job when it was asked for finished jobs so many times. What the model then reads is garbage; the schedule is real.

Read: v1/kv_offload/cpu/spec.py and base.py of vLLM 0.32. Named by spec_name and spec_module_path, as any specification
outside of vLLM; the simulator takes it as it is.
"""

from typing import Any

from vllm.v1.kv_offload.base import OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec


class SteppedCopies(OffloadingWorker):
    """Ends a job at the `steps`-th look at it; one that is waited for at the next."""

    def __init__(self, steps: int):
        self._steps = steps
        self._left: dict[int, int] = {}

    def submit_store(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        self._left[job_id] = self._steps
        return True

    def submit_load(self, job_id: int, src_spec: Any, dst_spec: Any) -> bool:
        return self.submit_store(job_id, src_spec, dst_spec)

    def get_finished(self) -> list[TransferResult]:
        self._left = {job: left - 1 for job, left in self._left.items()}
        ended = [job for job, left in self._left.items() if left <= 0]
        for job in ended:
            del self._left[job]
        return [TransferResult(job, True) for job in ended]

    def wait(self, job_ids: set[int]) -> None:
        self._left |= dict.fromkeys(job_ids & self._left.keys(), 1)


class SteppedSpec(CPUOffloadingSpec):
    """Upstream's specification, with as many chunks as it is given, and the worker above."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.num_chunks = self.extra_config["chunks"]

    def get_worker(self, kv_caches: Any) -> SteppedCopies:
        return SteppedCopies(self.extra_config["copy_steps"])
