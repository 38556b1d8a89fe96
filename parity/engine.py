"""One side of the comparison: serves the requests of each case with vLLM's EngineCore and writes what every step did.

Run in the second environment without VLLM_SIM_TRACE_PATH, the model is executed by real CPU kernels and the answers
become traces; run with it, the simulator answers from these traces. Configuration, loop and recorder are the same text
for both. Time is counted in steps that have ended, so the host's clock decides nothing.

Each case runs in a child of its own: the imports are done once, and a case that fails or does not end leaves the
others alone. It then has a log with an error, or none.

usage: python -m parity.engine real|simulator FOLDER MODELS CASES.json
"""

import functools
import gc
import heapq
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from parity.model import END_TOKEN
from parity.workload import Ask, Case, make_asks

Step = dict[str, Any]
LIMIT_S = 900
"""A case that takes longer is ended."""
IMPORTS = {
    "real": ("vllm.v1.engine.core", "vllm.v1.worker.cpu_worker", "vllm.model_executor.models.llama"),
    "simulator": ("parity.simulator",),
}
"""What takes long, once for all children. On the real side it is not numba: vLLM 0.32's CPU worker does not start where
llvmlite is imported (`register_triton_kernel_overrides` looks through the attributes of all modules), so a process that
has used an eviction policy cannot start a second engine."""


def engine_arguments(case: Case, models: str) -> Any:
    from vllm.engine.arg_utils import EngineArgs

    model = str(Path(models) / case.model)
    return EngineArgs(
        model=model,
        tokenizer=model,
        load_format="dummy",
        enforce_eager=True,
        block_size=case.block_size,
        num_gpu_blocks_override=case.capacity_blocks + 1,  # and the null block
        gpu_memory_utilization=0.3,
        max_model_len=case.max_model_len,
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        async_scheduling=case.async_scheduling,
        **case.upstream,
        seed=case.seed,
        disable_log_stats=True,
        additional_config={
            "vllm_sim": {"eviction": case.policy, "eviction_params": case.policy_params, "on_inexact": "warn"}
        },
    )


def make_core(case: Case, models: str, is_real: bool) -> Any:
    """The engine of a case.

    The CPU build sets async_scheduling to False whatever is configured; it is set on the finished configuration. With
    CPU memory requests that finish in one step have an order on all sides, which upstream leaves to each process.
    """
    from vllm.plugins import load_general_plugins
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.executor.abstract import Executor

    load_general_plugins()
    config = engine_arguments(case, models).create_engine_config()
    config.scheduler_config.async_scheduling = case.async_scheduling
    if is_real:
        executor: Any = Executor.get_class(config)
    else:
        from parity import simulator

        executor = getattr(simulator, case.executor)
    core = EngineCore(config, executor, log_stats=False)
    if case.tier is not None:
        from vllm_sim.engine.tier import order_finished

        order_finished(core.scheduler.connector)
    return core


class Recorder:
    """Keeps what each call of a scheduler's schedule() decided, what hashes were removed, what tokens came out."""

    def __init__(self, core: Any):
        self.steps: list[Step] = []
        self._evicted: list[str] = []
        self._preempted: list[str] = []
        scheduler = core.scheduler
        pool = scheduler.kv_cache_manager.block_pool
        schedule, remove, preempt = scheduler.schedule, pool._remove_cached_block_hashes, scheduler._preempt_request

        def recorded_schedule(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            self._keep(output)
            return output

        def recorded_remove(block: Any) -> Any:
            if block.block_hash is not None:
                self._evicted.append(block.block_hash.hex())
            return remove(block)

        def recorded_preempt(request: Any, *args: Any, **kwargs: Any) -> Any:
            self._preempted.append(request.request_id)
            return preempt(request, *args, **kwargs)

        step_fn = core.step_fn

        @functools.wraps(step_fn)
        def recorded_step() -> Any:
            outputs, executed = step_fn()
            for output in (one for group in (outputs or {}).values() for one in group.outputs):
                reason = None if output.finish_reason is None else str(output.finish_reason)
                self.steps[-1]["tokens"][output.request_id] = [list(output.new_token_ids), reason]
            return outputs, executed

        core.step_fn = recorded_step
        scheduler.schedule = recorded_schedule
        pool._remove_cached_block_hashes = recorded_remove
        scheduler._preempt_request = recorded_preempt

    def _keep(self, output: Any) -> None:
        tokens, known = output.num_scheduled_tokens, output.scheduled_cached_reqs
        step: Step = {
            "new": [
                [new.req_id, new.num_computed_tokens, tokens[new.req_id], _lists(new.block_ids)]
                for new in output.scheduled_new_reqs
            ],
            "known": [
                [name, computed, tokens[name], _lists(blocks or ())]
                for name, computed, blocks in zip(
                    known.req_ids, known.num_computed_tokens, known.new_block_ids, strict=True
                )
            ],
            "resumed": sorted(known.resumed_req_ids),
            "preempted": self._preempted,
            "finished": sorted(output.finished_req_ids),
            "evicted": self._evicted,
            "copies": _copies(output.kv_connector_metadata),
            "zeroed": list(output.new_block_ids_to_zero or ()),
            "copied": [str(copy) for copy in output.kv_cache_block_copies or ()],
            "tokens": {},
        }
        self.steps.append(step)
        self._evicted, self._preempted = [], []


def _lists(blocks: Iterable[Iterable[int]]) -> list[list[int]]:
    """Block ids by cache group."""
    return [list(group) for group in blocks]


def _copies(metadata: Any) -> list[list[Any]]:
    """The copies that a step begins (a job's number, the direction, the GPU's blocks, CPU memory's chunks), and those
    that it waits for."""
    if metadata is None:
        return []
    waits = [[job, "wait"] for job in sorted(metadata.jobs_to_flush or ())]
    jobs = [(job, "load", one.dst_spec, one.src_spec) for job, one in metadata.load_jobs.items()]
    jobs += [(job, "store", one.src_spec, one.dst_spec) for job, one in metadata.store_jobs.items()]
    begun = [[job, way, list(map(int, gpu.block_ids)), list(map(int, cpu.block_ids))] for job, way, gpu, cpu in jobs]
    return begun + waits


def serve(core: Any, case: Case, asks: list[Ask]) -> dict[int, tuple[list[int], list[int]]]:
    """Serves all requests; returns prompt and answer of each row. A closed loop serves rows in their order.

    As vLLM's own loop it steps on while a copy to CPU memory is under way, whoever is served.
    """

    def is_busy() -> bool:
        is_copying = case.tier is not None and core.scheduler.has_requests()
        return bool(running or core.batch_queue) or is_copying

    def arrival(ask: Ask, now: int) -> tuple[int, int]:
        return now + ask.step if case.concurrency is None else 0, ask.row

    waiting = {ask.after_row: ask for ask in asks if ask.after_row is not None}
    due = [arrival(ask, 0) for ask in asks if ask.after_row is None]
    heapq.heapify(due)
    served: dict[int, tuple[list[int], list[int]]] = {}
    running: set[str] = set()
    now = 0
    while due or is_busy():
        if not is_busy():
            now = max(now, due[0][0])
        while due and due[0][0] <= now and (case.concurrency is None or len(running) < case.concurrency):
            ask = asks[heapq.heappop(due)[1]]
            prompt, answer = ([], []) if ask.after_row is None else served[ask.after_row]
            served[ask.row] = (prompt + answer + ask.tokens, [])
            running.add(str(ask.row))
            request = make_request(ask, served[ask.row][0], now, case.shape.end_bias)
            core.add_request(*core.preprocess_add_request(request))
        outputs, executed = core.step_fn()
        core.post_step(executed)
        now += outputs is not None  # None: asynchronous, a step was begun and none has ended
        for output in (one for group in (outputs or {}).values() for one in group.outputs):
            served[int(output.request_id)][1].extend(output.new_token_ids)
            if output.finish_reason is not None:
                running.remove(output.request_id)
                if (ask := waiting.get(int(output.request_id))) is not None:
                    heapq.heappush(due, arrival(ask, now))
    return served


def make_request(ask: Ask, prompt: list[int], now: int, end_bias: float) -> Any:
    """A request of upstream's engine."""
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine import EngineCoreRequest

    return EngineCoreRequest(
        request_id=str(ask.row),
        prompt_token_ids=prompt,
        mm_features=None,
        sampling_params=SamplingParams(
            max_tokens=ask.max_tokens, stop_token_ids=[END_TOKEN], logit_bias={END_TOKEN: end_bias}, temperature=1.0
        ),
        pooling_params=None,
        arrival_time=float(now),
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
        priority=ask.priority,
    )


def facts(core: Any) -> dict[str, Any]:
    """What ran: versions, classes and flags."""
    import torch
    import vllm
    from vllm.platforms import current_platform

    scheduler = core.scheduler
    return {
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "platform": type(current_platform).__name__,
        "executor": type(core.model_executor).__name__,
        "scheduler": type(scheduler).__name__,
        "pool": type(scheduler.kv_cache_manager.block_pool).__name__,
        "step_fn": core.step_fn.__name__,
        "batch_queue_size": core.batch_queue_size,
        "capacity_blocks": scheduler.kv_cache_manager.block_pool.num_gpu_blocks - 1,
        "block_size": scheduler.block_size,
    }


def write_trace(path: Path, served: dict[int, tuple[list[int], list[int]]]) -> None:
    """The answers as a trace, in the order of rows."""
    with path.open("w", encoding="utf-8") as file:
        for row in range(len(served)):
            prompt, answer = served[row]
            reason = "stop" if answer[-1] == END_TOKEN else "length"
            record = {"id": row, "prompt_token_ids": prompt, "response_token_ids": answer, "finish_reason": reason}
            file.write(json.dumps(record) + "\n")


def run_case(case: Case, side: str, folder: Path, models: str, trace: Path | None) -> bool:
    """Runs a case and writes its log, up to an error if there is one; on the real side its trace too.

    Returns:
        Whether there was no error.
    """
    if trace is not None:
        os.environ["VLLM_SIM_TRACE_PATH"] = str(trace)
    if side == "driver":
        from parity.simulator import make_driver

        assert trace is not None
        driver, arrivals = make_driver(case, models, trace)
        core, recorder = driver.core, Recorder(driver.core)
        run: Callable[[], Any] = lambda: list(driver.run(arrivals))  # noqa: E731
    else:
        core = make_core(case, models, is_real=trace is None)
        recorder = Recorder(core)
        run = functools.partial(serve, core, case, make_asks(case.seed, case.sessions, case.shape))
    error = None
    try:
        served = run()
        if trace is None:
            write_trace(folder / f"{case.name}.jsonl", served)
    except Exception as raised:
        traceback.print_exc()
        error = f"{type(raised).__name__}: {raised}"
    log = {"facts": facts(core), "steps": recorder.steps, "error": error}
    (folder / f"{case.name}.{side}.json").write_text(json.dumps(log), encoding="utf-8")
    core.shutdown()
    return error is None


def run_in_child(job: dict[str, Any], side: str, folder: Path, models: str) -> bool:
    """Runs a job in a child of this process, which has no engine; returns whether it went well."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    status = 1
    try:
        signal.alarm(LIMIT_S)  # ends this process
        trace = Path(job["trace"]) if "trace" in job else None
        status = 0 if run_case(Case.read(job["case"]), job.get("side", side), folder, models, trace) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    side, folder, models, jobs = sys.argv[1], Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
    for module in IMPORTS["real" if side == "real" else "simulator"]:
        importlib.import_module(module)
    cases = {case.model: case for case in (Case.read(job["case"]) for job in jobs)}
    for case in cases.values():
        engine_arguments(case, models).create_engine_config()  # looks at the model's class, once
    gc.freeze()  # else each engine collects at its start what was imported
    failed = [job for job in jobs if not run_in_child(job, side, folder, models)]
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
