"""The `engine` backend: vLLM's EngineCore in virtual time, and what is written of it.

Its fields of the summary row: async_scheduling, max_num_seqs, max_num_batched_tokens, max_model_len (tokens),
latency_model, device (for roofline), latency_file_sha256 (for table), arrival (open with its speedup, or closed
with its concurrency), and for `opt` policy_future: what the policy takes for the future, which is the order of rows.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vllm_sim.eviction.chains import link
from vllm_sim.replay.evictions import eviction_rows
from vllm_sim.replay.latency import make_latency
from vllm_sim.replay.requests import cache_requests, categories
from vllm_sim.replay.rows import PARTIAL, Found, Outcome, Row, engine_fields, generated_blocks, request_row
from vllm_sim.replay.settings import Settings
from vllm_sim.replay.timeline import open_timeline
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import TokenisedTrace
from vllm_sim.vllm_version import installed_version


def run_engine(
    path: Path,
    out: Path,
    trace: TokenisedTrace,
    records: Sequence[Record],
    settings: Settings,
    progress: Callable[[int], None],
) -> Outcome:
    """vLLM's EngineCore in virtual time. Finished requests are written as they end, in case the run is killed."""
    model = model_config(settings.model)
    latency = make_latency(settings.latency_model, model, settings.device, settings.latency_file)
    planned = list(_arrivals(path, trace, records, settings))
    installed_version()
    os.environ["VLLM_SIM_TRACE_PATH"] = str(path)  # vLLM chooses its platform when it is imported
    from vllm_sim.engine import driver as engine

    arrivals = [engine.Arrival(*arrival) for arrival in planned]
    setup = _setup(engine, trace, settings)
    core = engine.make_core(path, settings.model, setup, _known(engine, trace, records, settings))
    asked = [engine.Asked(record.cache_salt, record.priority or 0, record.max_tokens) for record in records]
    step_ms = None if latency is None else latency.step_ms
    rows: list[Row] = []
    with ExitStack() as stack:
        stack.callback(core.shutdown)
        timeline = stack.enter_context(open_timeline(settings.timeline)) if settings.timeline else None
        on_step = None if timeline is None else timeline.step
        driver = engine.Driver(
            core, trace, step_ms, asked, settings.concurrency, progress, on_step, settings.attribution
        )
        file = stack.enter_context((out / PARTIAL).open("w", encoding="utf-8", buffering=1))
        for served in driver.run(arrivals):
            row = _row(served, trace, records, settings)
            rows.append(row)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if timeline is not None:
                timeline.request(row)
    rows.sort(key=lambda row: row["row"])
    tail = _tail(setup, settings) | generated_blocks(records)
    ledger = driver.ledger
    if ledger is None:
        return Outcome(rows, tail, {})
    tail["working_set_blocks"] = ledger.working_set_blocks
    tail["evicted_blocks"] = ledger.evicted_blocks
    tail["orphan_blocks"] = ledger.orphan_blocks
    evictions = eviction_rows(ledger.evictions, records)
    return Outcome(rows, tail, {"evictions.jsonl": evictions, "blocks.jsonl": ledger.lifetimes.rows()})


def _row(served: Any, trace: TokenisedTrace, records: Sequence[Record], settings: Settings) -> Row:
    row, prompt, found = served.row, len(trace.prompt(served.row)), _found(served.admission)
    size, rejected = settings.block_size, served.rejected
    values = request_row(row, records[row], prompt, served.output_tokens, size, rejected, found)
    return values | engine_fields(served, prompt)


def _tail(setup: Any, settings: Settings) -> Row:
    """The engine's set-up, for the summary."""
    arrival = (
        f"open, speedup {settings.speedup:g}"
        if settings.concurrency is None
        else f"closed, concurrency {settings.concurrency}"
    )
    tail: Row = {
        "async_scheduling": settings.async_scheduling,
        "max_num_seqs": setup.max_num_seqs,
        "max_num_batched_tokens": setup.max_num_batched_tokens,
        "max_model_len": setup.max_model_len,
        "latency_model": settings.latency_model,
        "device": settings.device if settings.latency_model == "roofline" else None,
        "arrival": arrival,
    }
    if settings.latency_file is not None:
        tail["latency_file_sha256"] = hashlib.sha256(settings.latency_file.read_bytes()).hexdigest()
    if settings.policy == "opt":
        tail["policy_future"] = "order of rows"
    return tail


def _known(engine: Any, trace: TokenisedTrace, records: Sequence[Record], settings: Settings) -> Any:
    """What the policy may know of the rows; None for `lru`, which asks for nothing."""
    if settings.policy == "lru":
        return None
    salts = [record.cache_salt for record in records]
    if settings.policy != "opt":
        return engine.Known(categories(records), salts, None)
    requests = cache_requests(trace, records, settings.block_size)
    return engine.Known(requests.category, salts, link(requests, settings.block_size))


def _found(admission: Any) -> Found | None:
    if admission is None:
        return None
    return Found(
        admission.hit_blocks,
        admission.hit_generated_blocks,
        admission.cold_blocks,
        admission.evicted_blocks,
        None if admission.evicted_by is None else int(admission.evicted_by),
        admission.allocated_blocks,
    )


def _arrivals(
    path: Path, trace: TokenisedTrace, records: Sequence[Record], settings: Settings
) -> Iterator[tuple[int, int | None, float]]:
    """(row, row whose answer it waits for, time): when each row arrives.

    Open loop: at its timestamp; a turn with a think time that long after its session's previous answer. Closed loop:
    as soon as a place is free, in the order of rows, and not before its session's previous answer.
    """
    last_row: dict[Any, int] = {}
    for row, record in enumerate(records):
        previous = last_row.get(record.session_id) if record.session_id is not None else None
        if record.session_id is not None:
            last_row[record.session_id] = row
        if settings.concurrency is not None:
            yield row, previous, 0.0
        elif previous is not None and record.think_time_ms is not None:
            yield row, previous, record.think_time_ms / settings.speedup
        elif record.timestamp is not None:
            yield row, None, record.timestamp / settings.speedup
        else:
            raise TraceError(path, int(trace.lines[row]), "no timestamp, which an open loop needs; or --concurrency N")


def model_config(model: str) -> dict[str, Any]:
    """The config.json of a model's folder."""
    path = Path(model) / "config.json"
    if not path.is_file():
        raise ValueError(f"{model} holds no config.json; allowed: a folder as `vllm-sim model export` builds it")
    return json.loads(path.read_text(encoding="utf-8"))


def _setup(engine: Any, trace: TokenisedTrace, settings: Settings) -> Any:
    lengths = [len(trace.prompt(row)) + len(trace.response(row)) for row in range(len(trace))]
    capacity = settings.capacity_blocks
    if capacity is None:  # all requests at once have room, so nothing is evicted
        capacity = sum(-(-length // settings.block_size) for length in lengths)
    return engine.Setup(
        capacity_blocks=capacity,
        block_size=settings.block_size,
        max_model_len=max(lengths) + 1 if settings.max_model_len is None else settings.max_model_len,
        model_positions=model_config(settings.model).get("max_position_embeddings", 0),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=max(settings.max_num_batched_tokens, settings.max_num_seqs),
        async_scheduling=settings.async_scheduling,
        policy=settings.policy,
        policy_params=settings.policy_params,
        seed=settings.seed,
    )
