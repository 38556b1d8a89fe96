"""vLLM's own offloading to CPU memory without a device: a worker that copies nothing, and ends jobs after their time.

Faithful to vLLM 0.32 (distributed/kv_transfer/kv_connector/v1/offloading/, v1/kv_offload/cpu/, v1/worker/gpu/
kv_connector.py, read): both halves of the OffloadingConnector, its manager and its policies are upstream's; `Tier`
calls the worker's half as upstream's ActiveKVConnector does. A job takes its bytes over a bandwidth. Each direction is
a queue of its own, in order; a store reads what earlier steps have computed, a load starts when its step has been
computed, and both go on besides the steps. A flush stalls the host until its jobs have ended. Bytes are those of
upstream's worker: the pages of a group's layers without their padding, or the whole block where a layout packs all
layers into one.

Upstream handles requests that finish in one step in the order of a set of names, which differs from process to process
and decides what a full tier evicts. `order_finished`, which replays and both sides of parity call, gives them one.

Not modelled: the bandwidth that copies take from the steps, and the launch of a copy.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole, KVConnectorWorkerMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import get_offloading_group_ids
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.kv_cache_interface import KVCacheConfig, MambaSpec, UniformTypeKVCacheSpecs
from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult
from vllm.v1.kv_offload.cpu.spec import CPUOffloadingSpec
from vllm.v1.outputs import KVConnectorOutput

from vllm_sim.engine import compat
from vllm_sim.engine.copy_clock import CopyClock


class _Job(NamedTuple):
    job_id: int
    size_bytes: int
    start_ms: float
    end_ms: float


class _Direction:
    """Copies in one direction, in order."""

    def __init__(self, bytes_per_ms: float):
        self._bytes_per_ms = bytes_per_ms
        self._free_ms = 0.0
        self.jobs: deque[_Job] = deque()
        self.copied_bytes = 0

    def submit(self, job_id: int, size_bytes: int, at_ms: float) -> None:
        start_ms = max(at_ms, self._free_ms)
        self._free_ms = start_ms + size_bytes / self._bytes_per_ms
        self.jobs.append(_Job(job_id, size_bytes, start_ms, self._free_ms))
        self.copied_bytes += size_bytes

    def finished(self, now_ms: float) -> Iterable[TransferResult]:
        while self.jobs and self.jobs[0].end_ms <= now_ms:
            job = self.jobs.popleft()
            yield TransferResult(job.job_id, True, job.size_bytes, (job.end_ms - job.start_ms) / 1000)

    def ends_ms(self, job_ids: set[int]) -> Iterable[float]:
        return (job.end_ms for job in self.jobs if job.job_id in job_ids)


class TimedCopies(OffloadingWorker):
    """Copies nothing, and ends each job after its time.

    Args:
        block_bytes: As Tier has it.
        gb_per_s: 10^9 bytes a second in each direction; infinity: copies take no time.
        clock: Gives the time.
    """

    def __init__(self, block_bytes: tuple[int, ...], gb_per_s: float, clock: CopyClock):
        self._block_bytes, self._clock = block_bytes, clock
        self._stores, self._loads = _Direction(gb_per_s * 1e6), _Direction(gb_per_s * 1e6)
        self._unstarted: list[tuple[int, int]] = []
        """(job, bytes) of loads whose step is not launched yet."""
        self.told_jobs = 0
        """Jobs that were reported to have ended."""
        self.stall_ms = 0.0
        """How long flushes have stalled the host."""

    @property
    def stored_bytes(self) -> int:
        return self._stores.copied_bytes

    @property
    def loaded_bytes(self) -> int:
        return self._loads.copied_bytes

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        self._stores.submit(job_id, self._size(src_spec), max(self._clock.now_ms, self._clock.computed_ms))
        return True

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        self._unstarted.append((job_id, self._size(dst_spec)))
        if self._clock.step_end_ms is not None:
            self.start_loads(self._clock.step_end_ms)
        return True

    def start_loads(self, at_ms: float) -> None:
        """The step that submitted loads has been computed at this time."""
        for job_id, size in self._unstarted:
            self._loads.submit(job_id, size, at_ms)
        self._unstarted.clear()

    def get_finished(self) -> list[TransferResult]:
        now_ms = self._clock.now_ms
        found = [*self._stores.finished(now_ms), *self._loads.finished(now_ms)]
        self.told_jobs += len(found)
        return found

    def wait(self, job_ids: set[int]) -> None:
        before_ms = self._clock.now_ms
        end_ms = max([before_ms, *self._stores.ends_ms(job_ids), *self._loads.ends_ms(job_ids)])
        self.stall_ms += end_ms - before_ms
        self._clock.wait_until(end_ms)

    def next_end_ms(self) -> float | None:
        """When the next job ends; None where none is under way."""
        return min((way.jobs[0].end_ms for way in (self._stores, self._loads) if way.jobs), default=None)

    def _size(self, spec: GPULoadStoreSpec) -> int:
        return sum(blocks * size for blocks, size in zip(spec.group_sizes, self._block_bytes, strict=True))


class Tier:
    """The worker's half of the connector, stepped as upstream's model runner does.

    Args:
        config: vLLM's; it names the OffloadingConnector.
        kv_cache_config: What the cache is made of.
        gb_per_s: See TimedCopies.
        clock: See TimedCopies.
    """

    def __init__(self, config: VllmConfig, kv_cache_config: KVCacheConfig, gb_per_s: float, clock: CopyClock):
        connector = KVConnectorFactory.create_connector(config, KVConnectorRole.WORKER, kv_cache_config)
        assert isinstance(connector, OffloadingConnector)
        assert connector.connector_worker is not None
        self._connector = connector
        self.copies: TimedCopies | None = None
        """None where a specification outside of vLLM brings a worker of its own."""
        self.block_bytes = _block_bytes(kv_cache_config)
        """Bytes of a block on one device, by the place of its group among the offloaded ones."""
        self.ranks = config.parallel_config.world_size
        """Devices, each of which copies its share besides the others; upstream waits for all of them."""
        spec = connector.connector_worker.spec
        if type(spec) is CPUOffloadingSpec:
            copies = self.copies = TimedCopies(self.block_bytes, gb_per_s, clock)
            compat.WORKER.put(spec, lambda kv_caches: copies)
        connector.connector_worker._init_worker(CanonicalKVCaches([], []))  # nothing is registered: nothing is copied

    def step(self, output: SchedulerOutput) -> KVConnectorOutput:
        """What the worker's half does in a step, and says of it; a step without tokens is one too."""
        connector, metadata = self._connector, output.kv_connector_metadata
        assert metadata is not None
        connector.handle_preemptions(metadata)
        connector.bind_connector_metadata(metadata)
        connector.start_load_kv(None)  # type: ignore[arg-type]  # this connector reads no forward context
        connector.wait_for_save()
        _, received = connector.get_finished(output.finished_req_ids)
        of_one: KVConnectorWorkerMetadata | None = connector.build_connector_worker_meta()
        total = of_one
        connector.clear_connector_metadata()
        if of_one is not None and total is not None:
            for _ in range(self.ranks - 1):
                total = total.aggregate(of_one)
        return KVConnectorOutput(finished_recving=received or None, kv_connector_worker_meta=total)

    def shutdown(self) -> None:
        self._connector.shutdown()


def order_finished(connector: Any) -> None:
    """Gives requests that finish in one step an order in the tier: "2" before "10".

    Args:
        connector: the scheduler's half of the OffloadingConnector; changed.
    """
    build = connector.build_connector_meta

    def build_connector_meta(scheduler_output: SchedulerOutput) -> Any:
        names = sorted(scheduler_output.finished_req_ids, key=lambda name: (len(name), name))
        return build(replace(scheduler_output, finished_req_ids=names))  # type: ignore[arg-type]  # it iterates alone

    compat.JOBS.put(connector, build_connector_meta)


def _block_bytes(config: KVCacheConfig) -> tuple[int, ...]:
    """Bytes that a copy of a block moves, for each group that is offloaded."""
    pages = {name: tensor.block_stride for tensor in config.kv_cache_tensors for name in tensor.layers}
    found = []
    for group in (config.kv_cache_groups[place] for place in get_offloading_group_ids(config)):
        spec = group.kv_cache_spec
        specs = spec.kv_cache_specs if isinstance(spec, UniformTypeKVCacheSpecs) else {}
        layers = [specs.get(name, spec) for name in group.layer_names]
        packed = max(pages[name] for name in group.layer_names)
        if packed > max(layer.page_size_bytes for layer in layers):  # all layers lie in one block
            found.append(packed)
        else:
            found.append(sum(_unpadded_bytes(layer) for layer in layers))
    return tuple(found)


def _unpadded_bytes(spec: Any) -> int:
    if isinstance(spec, MambaSpec):
        return replace(spec, page_size_padded=None).page_size_bytes
    return int(spec.unpadded_page_size_bytes)
