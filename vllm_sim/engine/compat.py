"""Every change that vllm_sim makes to what is vLLM's, in one table: what, why, until when.

A change is the last resort, where no configuration field, hook or subclass serves. A rebinding holds in the whole
process: whoever needs it applies it by its name; `apply()` may be called again, `revert()` undoes it. The other rows
change one object of one engine: their `put` does it. A target that is not there, or not as the row needs it, raises and
names the version of vLLM. Not in here: what the hook Platform.check_and_update_config sets in a configuration, which is
what it is for.
"""

import functools
import sys
from collections import deque
from collections.abc import Callable
from types import FunctionType
from typing import Any, Protocol, runtime_checkable

from vllm_sim.engine.contact import Contact, Entry, Members, Override, Promotion, Rebinding, Value
from vllm_sim.vllm_version import VersionError

__all__ = ["TABLE", "VersionError", "apply", "revert"]


@runtime_checkable
class Admitting(Protocol):
    """An executor that sees each request as it arrives."""

    def admit(self, request: Any, fail: Callable[[], None]) -> None: ...


def _admitting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        result = original(self, request)
        if isinstance(self.model_executor, Admitting):
            request_id, scheduler = result[0].request_id, self.scheduler
            self.model_executor.admit(result[0], lambda: ERRORS.put(scheduler, request_id))
        return result

    return preprocess_add_request


def _evicting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __post_init__(self: Any) -> None:
        original(self)
        from vllm_sim.engine.options import name_scheduler

        name_scheduler(self)

    return __post_init__


class _WithoutTraceback:
    """A logger of upstream's that logs a client's error in one line."""

    def __init__(self, logger: Any):
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def exception(self, message: str, *arguments: Any, **options: Any) -> None:
        from vllm.exceptions import VLLMClientError

        error = sys.exc_info()[1]
        if isinstance(error, VLLMClientError):
            self._logger.warning("%s %s", message % arguments, error)
        else:
            self._logger.exception(message, *arguments, **options)


FINISH = Rebinding(
    name="finish",
    target="vllm.v1.engine.core:EngineCore.preprocess_add_request",
    why="a recorded finish_reason 'length' ends the replay with 'length': request.max_tokens is lowered on arrival",
    upstream="vllm/v1/engine/core.py, process_input_sockets; core_client.py, InprocClient.add_request",
    delete_when="an executor can end a request by its length, or sees a request before it is scheduled",
    wrap=_admitting,
)
LENGTH = Value(
    name="length",
    target="vllm.v1.request:Request.max_tokens",
    why="see finish",
    upstream="vllm/v1/core/sched/utils.py, check_stop",
    delete_when="see finish",
    type=int,
)
ERRORS = Members(
    name="errors",
    target="vllm.v1.core.sched.scheduler:Scheduler.grammar_compile_error_reqs",
    why="the option failures ends a request with an error within its answer, as upstream does those in this set",
    upstream="vllm/v1/core/sched/scheduler.py, Scheduler.update_from_output",
    delete_when="a step's output can say that a request has failed",
)
EVICTION = Rebinding(
    name="eviction",
    target="vllm.config:VllmConfig.__post_init__",
    why="the option eviction alone makes upstream's field scheduler_cls name PolicyScheduler, on every platform. No "
    "hook of a general plugin sees a configuration, so each process that loads the plugin has this wrapper; where no "
    "policy is named it reads additional_config and changes nothing. Who gives --scheduler-cls "
    "vllm_sim.engine.scheduler.PolicyScheduler needs no wrapper: VLLM_PLUGINS may leave vllm_sim out",
    upstream="pydantic, after it has set a VllmConfig's fields",
    delete_when="an option names a policy or a block pool, or a general plugin is called with the configuration",
    wrap=_evicting,
)
MANAGER = Promotion(
    name="manager",
    target="vllm.v1.core.kv_cache_manager:KVCacheManager",
    why="the pool under a policy must know for which request blocks are allocated",
    upstream="vllm/v1/core/sched/scheduler.py, Scheduler.__init__ makes it and names the class itself",
    delete_when="the scheduler takes a manager's class, or gives the pool the request",
)
POOL = Promotion(
    name="pool",
    target="vllm.v1.core.block_pool:BlockPool",
    why="a policy chooses the block that is evicted, and sees hits, releases and lost hashes",
    upstream="vllm/v1/core/kv_cache_coordinator.py, KVCacheCoordinator.__init__ makes it; three objects keep it",
    delete_when="an option names a policy or a block pool",
)
ALLOCATE = Override(
    name="allocate",
    target="vllm.v1.core.kv_cache_manager:KVCacheManager.allocate_slots",
    why="the ledger sees which request takes which blocks; KV events name no request",
    upstream="vllm/v1/core/sched/scheduler.py, Scheduler.schedule",
    delete_when="KV events tell the request that stores or removes a block",
    parameters=("request", "num_new_tokens", "num_new_computed_tokens", "new_computed_blocks"),
)
CACHE = Override(
    name="cache",
    target="vllm.v1.core.kv_cache_manager:KVCacheManager.cache_blocks",
    why="the ledger sees blocks that are cached outside allocate_slots, under asynchronous scheduling",
    upstream="vllm/v1/core/sched/async_scheduler.py",
    delete_when="see allocate",
    parameters=("request", "num_computed_tokens"),
)
FREE = Override(
    name="free",
    target="vllm.v1.core.block_pool:BlockPool.free_blocks",
    why="the ledger measures how long blocks are idle; no KV event tells of a release",
    upstream="vllm/v1/core/block_pool.py, free_blocks; vllm/v1/core/sched/scheduler.py, Scheduler._free_blocks",
    delete_when="a KV event tells of a release",
    parameters=("ordered_blocks",),
)
TAKE = Override(
    name="take",
    target="vllm.v1.core.block_pool:BlockPool.get_new_blocks",
    why="the ledger of several cache groups sees which blocks an allocation evicts; KV events name no request",
    upstream="vllm/v1/core/single_type_kv_cache_manager.py, allocate_new_blocks",
    delete_when="see allocate",
    parameters=("num_blocks",),
)
INSERT = Override(
    name="insert",
    target="vllm.v1.core.block_pool:BlockHashToBlockMap.insert",
    why="the ledger of several cache groups sees what each group keeps; KV events name no partial blocks",
    upstream="vllm/v1/core/block_pool.py, BlockPool._insert_block_hash",
    delete_when="see allocate",
    parameters=("key", "block"),
)
POP = Override(
    name="pop",
    target="vllm.v1.core.block_pool:BlockHashToBlockMap.pop",
    why="see insert",
    upstream="vllm/v1/core/block_pool.py, BlockPool._remove_cached_block_hashes",
    delete_when="see allocate",
    parameters=("key", "block_id"),
)
WORKER = Override(
    name="worker",
    target="vllm.v1.kv_offload.cpu.spec:CPUOffloadingSpec.get_worker",
    why="upstream's worker copies on a device; ours copies nothing and ends its jobs after their time (tier.py)",
    upstream="vllm/distributed/kv_transfer/kv_connector/v1/offloading/worker.py, _init_worker",
    delete_when="a platform names the worker of offloaded blocks",
    parameters=("kv_caches",),
)
OFFER = Override(
    name="offer",
    target="vllm.v1.kv_offload.cpu.manager:CPUOffloadingManager.prepare_store",
    why="the ledger of the tier sees what is offered, stored and evicted there; KV events name no offers",
    upstream="vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py, _build_store_jobs",
    delete_when="KV events tell what was offered and not stored",
    parameters=("keys", "req_context"),
)
LOAD = Override(
    name="load",
    target="vllm.v1.kv_offload.cpu.manager:CPUOffloadingManager.prepare_load",
    why="the ledger of the tier sees what is loaded, and so what was stored for nothing",
    upstream="vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py, update_state_after_alloc",
    delete_when="KV events tell of loads",
    parameters=("keys", "req_context"),
)
JOBS = Override(
    name="jobs",
    target="vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector:OffloadingConnector.build_connector_meta",
    why="requests that finish in one step are stored and counted as used in the order of a set of names, which Python "
    "draws anew in each process; a replay is to be the same in all (tier.py)",
    upstream="vllm/distributed/kv_transfer/kv_connector/v1/offloading/scheduler.py, _build_store_jobs",
    delete_when="SchedulerOutput.finished_req_ids has an order",
    parameters=("scheduler_output",),
)
MAX_LENGTH = Value(
    name="max_length",
    target="vllm.v1.core.sched.scheduler:Scheduler.max_model_len",
    why="vLLM does not start where a request of max_model_len needs more than the cache has; here such a request is "
    "rejected by itself and counted",
    upstream="vllm/v1/core/sched/scheduler.py, Scheduler.schedule, update_from_output",
    delete_when="vLLM starts with such a cache and refuses the request",
    type=int,
)
CHAT_LOG = Rebinding(
    name="chat_log",
    target="vllm.entrypoints.openai.chat_completion.serving:logger",
    why="a miss in a stream is the client's affair, and upstream logs every error in one with a traceback of 60 lines",
    upstream="vllm/entrypoints/openai/chat_completion/serving.py, chat_completion_stream_generator",
    delete_when="upstream logs a client's error in a stream as it does outside one",
    wrap=_WithoutTraceback,
)
COMPLETION_LOG = Rebinding(
    name="completion_log",
    target="vllm.entrypoints.openai.completion.serving:logger",
    why="see chat_log",
    upstream="vllm/entrypoints/openai/completion/serving.py, completion_stream_generator",
    delete_when="see chat_log",
    wrap=_WithoutTraceback,
)
HASHER = Value(
    name="hasher",
    target="vllm.v1.engine.core:EngineCore.request_block_hasher",
    why="block hashes of a trace's rows are computed once, by the function that is there, and kept (stored_hashes.py)",
    upstream="vllm/v1/engine/core.py, EngineCore.preprocess_add_request",
    delete_when="a request can be given its block hashes",
    type=FunctionType,
)


_SPARSE_END = "the scheduler skips what only decodes, or tells which steps would not be noticed"


def _sparse(name: str, attribute: str, kind: type, why: str, function: str = "Scheduler.schedule") -> Value:
    """What sparse.py sets while a step is shown only the requests for which it does something.

    Args:
        name: of the contact.
        attribute: of the scheduler, or of a request.
        kind: its type.
        why: what needs it.
        function: of upstream's scheduler.py, which reads it.
    """
    module = "vllm.v1.request" if attribute.startswith("Request.") else "vllm.v1.core.sched.scheduler"
    return Value(
        name=name,
        target=f"{module}:{attribute}",
        why=why,
        upstream=f"vllm/v1/core/sched/scheduler.py, {function}",
        delete_when=_SPARSE_END,
        type=kind,
    )


RUNNING = _sparse(
    "running", "Scheduler.running", list, "a step is shown only the requests for which it does something; see sparse.py"
)
BUDGET = _sparse(
    "budget",
    "Scheduler.max_num_scheduled_tokens",
    int,
    "what the requests take that a step is not shown, one token each, is not given to others",
)
ACTIVE = _sparse("active", "Scheduler.max_num_active_reqs", int, "requests that a step is not shown keep their places")
STEP = _sparse("step", "Scheduler.current_step", int, "steps that upstream was not shown count")
COMPUTED = _sparse(
    "computed",
    "Request.num_computed_tokens",
    int,
    "a request is brought up to date before upstream sees it, or serves its blocks",
    "Scheduler._update_after_schedule",
)
BATCH = Value(
    name="batch",
    target="vllm.v1.engine.core:EngineCore.batch_queue",
    why="of the step in flight upstream ends only the requests that it is shown; see in_flight.py",
    upstream="vllm/v1/engine/core.py, EngineCore.step_with_batch_queue",
    delete_when=_SPARSE_END,
    type=deque,
)
RANKS = Value(
    name="ranks",
    target="vllm.distributed.parallel_state:GroupCoordinator.world_size",
    why="a model is built as the first of several devices has it, to see its share of the cache, in one process that "
    "never communicates; set back once it is built",
    upstream="vllm/distributed/parallel_state.py, get_tensor_model_parallel_world_size, which layers call",
    delete_when="a model can be built for a number of ranks that are not there",
    type=int,
)
VARIABLE = Entry(
    name="variable",
    target="vllm.envs:environment_variables",
    why="vLLM warns of a variable VLLM_* that it does not know, and --fail-on-environ-validation ends the start",
    upstream="vllm/platforms/interface.py, Platform.validate_environ",
    delete_when="a plugin can register a variable",
)
MODULE = Entry(
    name="module",
    target="sys:modules",
    why="vLLM's Qwen3.5 classes import an image processor of transformers, which imports torchvision; PyPI's build of "
    "that needs CUDA's libraries. Put only where torchvision is not installed, and where the platform is ours",
    upstream="vllm/model_executor/models/qwen3_vl.py",
    delete_when="the classes for text import no image processor",
)

PUBLISH = Override(
    name="publish",
    target="vllm.distributed.kv_events:NullEventPublisher.publish",
    why="a router of a simulated fleet gets each batch of KV events as it is published, without sockets and threads",
    upstream="vllm/v1/core/sched/scheduler.py, Scheduler.update_from_output",
    delete_when="KVEventsConfig.publisher may name a registered publisher",
    parameters=("events",),
)

TABLE = tuple(row for row in tuple(globals().values()) if isinstance(row, Contact))
"""All rows of this module."""


def apply(*names: str) -> None:
    """Rebinds what the named rows of the table name (all rebindings by default), where it is not rebound yet.

    Raises:
        ValueError: there is no such rebinding.
        VersionError: a target is not there.
    """
    rebindings = {row.name: row for row in TABLE if isinstance(row, Rebinding)}
    for name in names or rebindings:
        if name not in rebindings:
            raise ValueError(f"no rebinding is named {name!r}; allowed: {', '.join(rebindings)}")
        rebindings[name].apply()


def apply_where_imported(*names: str) -> None:
    """As `apply`, for those of the named rows whose module this process has imported: it needs no other."""
    found = [row.name for row in TABLE if row.name in names and row.target.partition(":")[0] in sys.modules]
    if found:
        apply(*found)


def revert() -> None:
    """Binds every name of the table to what upstream had."""
    for row in TABLE:
        if isinstance(row, Rebinding):
            row.revert()
