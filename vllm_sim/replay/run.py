"""One run: a trace in, the files of a run out, by one of three backends.

`engine` drives vLLM's EngineCore in virtual time; `blockpool` vLLM's KV-cache manager, one request after the other;
`fast` the compiled kernel of `vllm_sim.eviction`. What a backend needs is imported when it is used.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import vllm_sim
from vllm_sim.replay.latency import make_latency
from vllm_sim.replay.requests import cache_requests, raw_requests
from vllm_sim.replay.rows import Found, Row, engine_fields, request_row, summary_row, write_rows
from vllm_sim.trace.files import iter_records, open_output
from vllm_sim.trace.record import Record, TraceError
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised

BACKENDS = ("engine", "blockpool", "fast")
_PARTIAL = "requests.partial.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a replay is told; the defaults are the command's."""

    model: str
    backend: str = "engine"
    capacity_blocks: int | None = None
    """Usable blocks; None for a cache in which nothing is ever evicted."""
    block_size: int = 16
    raw_blocks: bool = False
    """Every hash id is one block, as in published numbers; `fast` only."""
    policy: str = "lru"
    policy_params: dict[str, Any] = field(default_factory=dict)
    concurrency: int | None = None
    speedup: float = 1.0
    latency_model: str = "roofline"
    device: str = "h100"
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    max_model_len: int | None = None
    warmup: float = 0.0
    seed: int = 0
    attribution: bool = True

    def __post_init__(self) -> None:
        for name in ("capacity_blocks", "block_size", "concurrency", "max_num_seqs", "max_num_batched_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; allowed: a fraction from 0 to less than 1")
        if not self.speedup > 0:
            raise ValueError(f"speedup is {self.speedup}; allowed: more than 0")
        if self.backend not in BACKENDS:
            raise ValueError(f"backend is {self.backend!r}; allowed: {', '.join(BACKENDS)}")
        if self.raw_blocks and self.backend != "fast":
            raise ValueError(f"backend {self.backend} cannot serve raw blocks, which vLLM does not have; allowed: fast")


def replay(
    path: Path, out: Path, settings: Settings, progress: Callable[[int, int], None] = lambda done, total: None
) -> Row:
    """Replays a trace and writes the files of the run.

    Args:
        path: The trace.
        out: Folder for summary.jsonl, requests.jsonl (the rows in the trace's order) and run.json; from the engine
            evictions.jsonl too, who evicted whom, and while it runs requests.partial.jsonl, to which each finished
            request is appended: it stays after a kill.
        settings: How.
        progress: Called with the numbers of finished and of all requests.

    Returns:
        The summary row.

    Raises:
        TraceError: a row lacks what the mode needs.
        ValueError: a setting is out of range.
    """
    start = time.monotonic()
    records = [record for _, record in iter_records(path)]
    trace = load_tokenised(path, settings.model)
    out.mkdir(parents=True, exist_ok=True)
    run = _run_engine if settings.backend == "engine" else _run_cache
    rows, tail, evictions = run(path, out, trace, records, settings, lambda done: progress(done, len(records)))
    summary = _head(path, trace, settings) | summary_row(rows, settings.block_size, settings.warmup) | tail
    write_rows(out / "requests.jsonl", rows)
    if evictions is not None:
        write_rows(out / "evictions.jsonl", evictions)
    write_rows(out / "summary.jsonl", [summary])
    with open_output(out / "run.json") as file:
        file.write(json.dumps(_about(settings, time.monotonic() - start), indent=2) + "\n")
    (out / _PARTIAL).unlink(missing_ok=True)
    return summary


def _run_cache(
    path: Path,
    out: Path,
    trace: TokenisedTrace,
    records: Sequence[Record],
    settings: Settings,
    progress: Callable[[int], None],
) -> tuple[list[Row], Row, None]:
    """One request after the other: `fast` in the compiled kernel, `blockpool` in vLLM's own KV-cache manager."""
    from vllm_sim.eviction.chains import link

    if settings.raw_blocks:
        requests = raw_requests(path, trace, records, settings.block_size)
    else:
        requests = cache_requests(trace, records, settings.block_size)
    chains = link(requests, settings.block_size, raw=settings.raw_blocks)
    if settings.backend == "fast":
        from vllm_sim.eviction.simulate import simulate as serve
    else:
        from vllm_sim.engine.blockpool import run as serve
    run = serve(chains, settings.policy, settings.capacity_blocks, settings.policy_params, settings.seed)
    rows = []
    for row, record in enumerate(records):
        evictor = int(run.evicted_by[row])
        found = Found(
            hit=int(run.hit[row]),
            hit_generated=int(run.hit_generated[row]),
            cold=int(run.cold[row]),
            evicted=int(run.missed[row]),
            evicted_by=None if evictor < 0 else evictor,
            allocated=int(run.allocated[row]),
        )
        rejected = bool(run.rejected[row])
        prompt, output = int(requests.prompt_tokens[row]), 0 if rejected else int(requests.output_tokens[row])
        values = request_row(row, record, prompt, output, settings.block_size, rejected, found, settings.raw_blocks)
        rows.append(values)
    progress(len(rows))
    tail = {
        "working_set_blocks": chains.working_set,
        "evicted_blocks": run.evicted_blocks,
        "orphan_blocks": run.orphan_blocks,
    }
    return rows, tail, None


def _run_engine(
    path: Path,
    out: Path,
    trace: TokenisedTrace,
    records: Sequence[Record],
    settings: Settings,
    progress: Callable[[int], None],
) -> tuple[list[Row], Row, list[Row] | None]:
    """vLLM's EngineCore in virtual time. Finished requests are written as they end, in case the run is killed."""
    latency = make_latency(settings.latency_model, _model_config(settings.model), settings.device)
    os.environ["VLLM_SIM_TRACE_PATH"] = str(path)  # vLLM chooses its platform when it is imported
    from vllm_sim.engine import driver as engine

    arrivals = [engine.Arrival(*arrival) for arrival in _arrivals(path, trace, records, settings)]
    setup = _setup(engine, trace, settings)
    core = engine.make_core(path, settings.model, setup)
    salts = [(record.cache_salt, record.priority or 0) for record in records]
    driver = engine.Driver(
        core, trace, None if latency is None else latency.step_ms, salts, settings.concurrency, progress
    )
    rows: list[Row] = []
    try:
        with (out / _PARTIAL).open("w", encoding="utf-8", buffering=1) as file:
            for served in driver.run(arrivals):
                prompt = len(trace.prompt(served.row))
                values = request_row(
                    served.row,
                    records[served.row],
                    prompt,
                    served.output_tokens,
                    settings.block_size,
                    served.rejected,
                    _found(served.admission),
                )
                rows.append(values | engine_fields(served, prompt))
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
    finally:
        core.shutdown()
    rows.sort(key=lambda row: row["row"])
    tail: Row = {
        "async_scheduling": False,
        "max_num_seqs": setup.max_num_seqs,
        "max_num_batched_tokens": setup.max_num_batched_tokens,
        "max_model_len": setup.max_model_len,
        "latency_model": settings.latency_model,
        "device": settings.device if settings.latency_model == "roofline" else None,
        "arrival": f"open, speedup {settings.speedup:g}"
        if settings.concurrency is None
        else f"closed, concurrency {settings.concurrency}",
    }
    ledger = driver.ledger
    if ledger is None:
        return rows, tail, None
    tail["working_set_blocks"] = ledger.working_set_blocks
    tail["evicted_blocks"] = ledger.evicted_blocks
    tail["orphan_blocks"] = ledger.orphan_blocks
    return rows, tail, _eviction_rows(ledger, records)


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


def _model_config(model: str) -> dict[str, Any]:
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
        max_model_len=settings.max_model_len or max(lengths) + 1,
        model_positions=_model_config(settings.model).get("max_position_embeddings", 0),
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=max(settings.max_num_batched_tokens, settings.max_num_seqs),
        policy=settings.policy,
        policy_params=settings.policy_params,
        seed=settings.seed,
        attribution=settings.attribution,
    )


def _head(path: Path, trace: TokenisedTrace, settings: Settings) -> Row:
    return {
        "trace": path.name,
        "trace_sha256": trace.sha256,
        "backend": settings.backend,
        "policy": settings.policy,
        "policy_params": settings.policy_params,
        "capacity_blocks": settings.capacity_blocks,
        "capacity_tokens": settings.capacity_blocks and settings.capacity_blocks * settings.block_size,
        "block_size": settings.block_size,
        "raw_blocks": settings.raw_blocks,
        "seed": settings.seed,
    }


def _eviction_rows(ledger: Any, records: Sequence[Record]) -> list[Row]:
    """Who evicted whom, by workload (of the request that cached the block, and of the one whose allocation took it)."""
    blocks: dict[tuple[str, str], int] = {}
    for (owner, evictor), count in ledger.evictions.items():
        pair = str(records[int(owner)].workload or ""), str(records[int(evictor)].workload or "")
        blocks[pair] = blocks.get(pair, 0) + count
    return [{"owner": owner, "evictor": evictor, "blocks": blocks[owner, evictor]} for owner, evictor in sorted(blocks)]


def _about(settings: Settings, seconds: float) -> Row:
    from importlib.metadata import version

    return {
        "seconds": round(seconds, 3),
        "host": platform.node(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "vllm": version("vllm"),
        "vllm_sim": vllm_sim.__version__,
        "model": settings.model,
    }
