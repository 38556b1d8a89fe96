"""The rows of a run as types: a request, a session, a summary. Deterministic byte for byte: no wall time, no host.

Each field says what it is and its unit (`config.fields_of` lists them). A field that a run does not know is left out
of its rows: those of the engine where another backend ran, those of the cache without attribution.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from vllm_sim.replay.about import About
from vllm_sim.replay.config import RunConfig
from vllm_sim.trace.files import open_output
from vllm_sim.trace.record import Record

Row = dict[str, Any]
"""A row as it is read back: files may be of another version, or a study's, with fields of its own."""

SCHEMA = 1
"""Of all rows; raised when a field changes its meaning. Rows of before it had a number are 0."""
MISSES = ("miss_cold_tokens", "miss_evicted_tokens", "miss_partial_tokens", "miss_last_tokens")
GROUP_MISSES = ("miss_window_tokens", "miss_alignment_tokens")
"""In rows of models whose layers do not all keep the same, besides MISSES."""
TIER_MISSES = ("tier_evicted_tokens", "tier_pending_tokens", "tier_never_tokens")
"""What miss_evicted_tokens are made of, in rows of runs with blocks in CPU memory."""
PARTIAL = "requests.partial.jsonl"
TIMES = ("arrival_ms", "first_scheduled_ms", "first_token_ms", "end_ms")

Tokens = int | UnsetType
Rate = float | UnsetType
Milliseconds = float | UnsetType | None


class RequestOfTrace(msgspec.Struct, frozen=True, kw_only=True):
    """Which request of the trace a row is of."""

    schema: int = SCHEMA
    row: Annotated[int, About("its place in the trace, from 0")]
    id: Annotated[Any, About("as in the trace")] = None
    workload: Annotated[Any, About("as in the trace")] = None
    session_id: Annotated[Any, About("as in the trace")] = None
    turn: Annotated[Any, About("as in the trace")] = None
    tenant: Annotated[Any, About("as in the trace")] = None


def request_fields(row: int, record: Record) -> dict[str, Any]:
    """The fields of RequestOfTrace."""
    return {
        "row": row,
        "id": record.id,
        "workload": record.workload,
        "session_id": record.session_id,
        "turn": record.turn,
        "tenant": record.tenant,
    }


class RequestResult(RequestOfTrace, frozen=True, kw_only=True):
    """What became of a request: a row of requests.jsonl."""

    replica: Annotated[int | UnsetType, About("which served it, from 0 (fleet)")] = UNSET
    status: Annotated[
        str,
        About("ok; or rejected: it needs more blocks than there are, or is longer than max_model_len"),
    ] = "ok"
    prompt_tokens: Annotated[int, About("of its prompt", "tokens")]
    output_tokens: Annotated[int, About("generated, the end token included", "tokens")]
    hit_tokens: Annotated[Tokens, About("of the prompt, found cached at first admission", "tokens")] = UNSET
    hit_generated_tokens: Annotated[Tokens, About("of the hits, in blocks with a generated token", "tokens")] = UNSET
    external_hit_tokens: Annotated[Tokens, About("of the hits, from CPU memory (tier)", "tokens", "engine")] = UNSET
    miss_cold_tokens: Annotated[
        Tokens, About("in blocks never cached before on its replica (compulsory)", "tokens")
    ] = UNSET
    miss_evicted_tokens: Annotated[Tokens, About("in blocks cached before and evicted (capacity)", "tokens")] = UNSET
    tier_evicted_tokens: Annotated[
        Tokens, About("of the evicted, in chunks that CPU memory held, and evicted too (tier)", "tokens", "engine")
    ] = UNSET
    tier_pending_tokens: Annotated[
        Tokens, About("of the evicted, in chunks that were offered to CPU memory and not stored", "tokens", "engine")
    ] = UNSET
    tier_never_tokens: Annotated[
        Tokens, About("of the evicted, never offered, or less than a chunk", "tokens", "engine")
    ] = UNSET
    miss_window_tokens: Annotated[
        Tokens, About("computed before, and not kept by a sliding window or a state (several groups)", "tokens")
    ] = UNSET
    miss_alignment_tokens: Annotated[
        Tokens, About("computed before, after the last boundary of a hit (several groups)", "tokens")
    ] = UNSET
    missed_group: Annotated[
        str | UnsetType | None,
        About("the cache group whose block was missed first: its place in cache_groups and kind"),
    ] = UNSET
    miss_partial_tokens: Annotated[Tokens, About("the tail that fills no block", "tokens")] = UNSET
    miss_last_tokens: Annotated[
        Tokens, About("the last block of a prompt of whole blocks, which vLLM always computes", "tokens")
    ] = UNSET
    evicted_by: Annotated[
        int | UnsetType | None, About("row whose allocation evicted the first block missed though it had been cached")
    ] = UNSET
    blocks_allocated: Annotated[
        int | UnsetType, About("taken besides the hits, again after each preemption", "blocks")
    ] = UNSET
    retokenised_tokens: Annotated[
        int | UnsetType | None, About("history that came back as other tokens; null: unknown", "tokens")
    ] = UNSET
    preemptions: Annotated[int | UnsetType, About("times it lost its blocks", scope="engine")] = UNSET
    readmission_prompt_tokens: Annotated[Tokens, About("prompt tokens times preemptions", "tokens", scope="engine")] = (
        UNSET
    )
    readmission_hit_tokens: Annotated[
        Tokens, About("found cached on returns, generated ones too", "tokens", scope="engine")
    ] = UNSET
    arrival_ms: Annotated[Milliseconds, About("virtual time from the start", "ms", "engine")] = UNSET
    first_scheduled_ms: Annotated[Milliseconds, About("null: rejected", "ms", "engine")] = UNSET
    first_token_ms: Annotated[Milliseconds, About("null: rejected", "ms", "engine")] = UNSET
    end_ms: Annotated[Milliseconds, About("null: rejected", "ms", "engine")] = UNSET


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Hit rates under the three definitions, and the tokens they are made of."""

    requests: Annotated[int, About("counted", "requests")]
    prompt_tokens: Annotated[int, About("sum", "tokens")]
    output_tokens: Annotated[int, About("sum", "tokens")]
    hit_tokens: Annotated[int, About("sum", "tokens")]
    hit_generated_tokens: Annotated[int, About("sum", "tokens")]
    token_hit_rate: Annotated[float, About("hit_tokens / prompt_tokens")]
    block_hit_rate: Annotated[float, About("hit blocks / full prompt blocks (raw: all blocks)")]
    request_hit_rate: Annotated[float, About("mean over requests of hit tokens / prompt tokens")]


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies of some requests, in virtual time."""

    requests: Annotated[int, About("served", "requests")]
    ttft_ms_p50: Annotated[float | None, About("first token - arrival", "ms")] = None
    ttft_ms_p90: Annotated[float | None, About("first token - arrival", "ms")] = None
    ttft_ms_p99: Annotated[float | None, About("first token - arrival", "ms")] = None
    ttft_ms_max: Annotated[float | None, About("first token - arrival", "ms")] = None
    e2e_ms_p50: Annotated[float | None, About("end - arrival", "ms")] = None
    e2e_ms_p90: Annotated[float | None, About("end - arrival", "ms")] = None
    e2e_ms_p99: Annotated[float | None, About("end - arrival", "ms")] = None


class SessionResult(Rates, frozen=True, kw_only=True):
    """A row of sessions.jsonl."""

    schema: int = SCHEMA
    session_id: Annotated[Any, About("as in the trace")]
    workload: Annotated[Any, About("of its first request")] = None
    tenant: Annotated[Any, About("of its first request")] = None


class ReplicaResult(Rates, frozen=True, kw_only=True):
    """What a replica of a fleet served."""

    capacity_blocks: Annotated[int | None, About("usable blocks of its own; null: unlimited", "blocks")]
    evicted_blocks: Annotated[
        int | UnsetType, About("whose hash was removed so that they could be used again", "blocks")
    ] = UNSET
    preemptions: Annotated[int | UnsetType, About("sum", scope="engine")] = UNSET


class Curve(msgspec.Struct, frozen=True, kw_only=True):
    """LRU's hit rates as step functions: each holds from its capacity on."""

    capacity_blocks: Annotated[list[int], About("ascending", "blocks")]
    token_hit_rate: list[float]
    block_hit_rate: list[float]
    request_hit_rate: list[float]


class CacheGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that share blocks of the cache."""

    kind: Annotated[str, About("vLLM's name for what the layers keep")]
    layers: int
    block_size: Annotated[int, About("of a block", "tokens")]
    page_bytes: Annotated[int, About("of a block in one layer", "bytes")]
    window_tokens: Annotated[int | None, About("of a sliding window", "tokens")] = None


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run: a row of summary.jsonl, and of a sweep's file.

    The first `warmup` of the requests are left out of everything but requests, rejected_requests, sessions, slots_*,
    and what a backend counts itself. As JSON the fields of `config` stand in the row itself.
    """

    schema: int = SCHEMA
    trace: Annotated[str, About("the trace's file name")]
    trace_sha256: Annotated[str, About("of the trace's file")]
    config: RunConfig
    capacity_tokens: Annotated[int | str | None, About("capacity_blocks x block_size", "tokens")] = None
    requests: Annotated[int, About("of the trace", "requests", compared=True)]
    rejected_requests: Annotated[int, About("that could not be served", "requests", compared=True)] = 0
    warmup_requests: Annotated[int, About("left out of the rates", "requests")] = 0
    sessions: Annotated[int, About("distinct session ids")] = 0
    prompt_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    output_tokens: Annotated[Tokens, About("sum", "tokens")] = UNSET
    hit_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    hit_generated_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    external_hit_tokens: Annotated[Tokens, About("sum (tier)", "tokens", "engine", compared=True)] = UNSET
    token_hit_rate: Annotated[Rate, About("hit_tokens / prompt_tokens")] = UNSET
    block_hit_rate: Annotated[Rate, About("hit blocks / full prompt blocks (raw: all blocks)")] = UNSET
    request_hit_rate: Annotated[Rate, About("mean over requests of hit tokens / prompt tokens")] = UNSET
    miss_cold_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    miss_evicted_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    tier_evicted_tokens: Annotated[Tokens, About("sum (tier)", "tokens", "engine", compared=True)] = UNSET
    tier_pending_tokens: Annotated[Tokens, About("sum (tier)", "tokens", "engine", compared=True)] = UNSET
    tier_never_tokens: Annotated[Tokens, About("sum (tier)", "tokens", "engine", compared=True)] = UNSET
    miss_window_tokens: Annotated[Tokens, About("sum (several groups)", "tokens", compared=True)] = UNSET
    miss_alignment_tokens: Annotated[Tokens, About("sum (several groups)", "tokens", compared=True)] = UNSET
    miss_partial_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    miss_last_tokens: Annotated[Tokens, About("sum", "tokens", compared=True)] = UNSET
    by_workload: Annotated[dict[str, Rates] | UnsetType, About("the rates of each workload")] = UNSET
    by_turn: Annotated[dict[str, Rates] | UnsetType, About("of each turn")] = UNSET
    by_tenant: Annotated[dict[str, Rates] | UnsetType, About("of each tenant")] = UNSET
    by_replica: Annotated[dict[str, ReplicaResult] | UnsetType, About("of each replica (fleet; with attribution)")] = (
        UNSET
    )
    by_session: Annotated[
        dict[str, float | None] | UnsetType, About("percentiles of the sessions' token hit rates")
    ] = UNSET
    slots_allocated: Annotated[Tokens, About("token slots of the blocks taken besides the hits", "tokens")] = UNSET
    slots_filled: Annotated[
        Tokens, About("tokens computed into them at a first try: prompt - hits + generated - 1", "tokens")
    ] = UNSET
    retokenised_tokens: Annotated[int | None, About("sum; null: unknown", "tokens")] = None
    generated_blocks: Annotated[
        str | UnsetType, About("never hit: the trace has hash ids, whose generated tokens are fresh")
    ] = UNSET
    working_set_blocks: Annotated[int | UnsetType, About("distinct blocks that were ever cached", "blocks")] = UNSET
    evicted_blocks: Annotated[
        int | UnsetType, About("whose hash was removed so that they could be used again", "blocks", compared=True)
    ] = UNSET
    orphan_blocks: Annotated[
        int | UnsetType,
        About("most cached blocks at any time whose parent's hash is in no block; fleet: of one replica", "blocks"),
    ] = UNSET
    cache_groups: Annotated[
        list[CacheGroup] | UnsetType, About("where layers do not all keep the same", scope="engine")
    ] = UNSET
    hit_alignment_tokens: Annotated[
        int | UnsetType, About("every hit is a multiple of it (several groups)", "tokens", "engine")
    ] = UNSET
    tier_chunks: Annotated[int | UnsetType, About("that CPU memory holds (tier)", "chunks", "engine")] = UNSET
    tier_stored_bytes: Annotated[int | UnsetType, About("copied to CPU memory (tier)", "bytes", "engine")] = UNSET
    tier_loaded_bytes: Annotated[int | UnsetType, About("copied from CPU memory (tier)", "bytes", "engine")] = UNSET
    tier_unused_bytes: Annotated[
        int | UnsetType, About("of chunks that were stored and never loaded (tier)", "bytes", "engine")
    ] = UNSET
    tier_stall_ms: Annotated[
        float | UnsetType, About("steps waited for copies of blocks that they overwrite (tier)", "ms", "engine")
    ] = UNSET
    curve: Annotated[Curve | UnsetType, About("for capacity all")] = UNSET
    arrival: Annotated[str | UnsetType, About("how requests arrive, in words", scope="engine")] = UNSET
    policy_future: Annotated[str | UnsetType, About("what belady takes for the future", scope="engine")] = UNSET
    preemptions: Annotated[int | UnsetType, About("sum", scope="engine", compared=True)] = UNSET
    readmission_prompt_tokens: Annotated[Tokens, About("sum", "tokens", "engine")] = UNSET
    readmission_hit_tokens: Annotated[Tokens, About("sum", "tokens", "engine", compared=True)] = UNSET
    output_tokens_per_s: Annotated[
        float | UnsetType | None, About("from the first arrival to the last end", "tokens/s", "engine")
    ] = UNSET
    ttft_ms_p50: Annotated[Milliseconds, About("first token - arrival", "ms", "engine")] = UNSET
    ttft_ms_p90: Annotated[Milliseconds, About("first token - arrival", "ms", "engine")] = UNSET
    ttft_ms_p99: Annotated[Milliseconds, About("first token - arrival", "ms", "engine")] = UNSET
    tpot_ms_p50: Annotated[Milliseconds, About("(end - first token) / (generated - 1)", "ms", "engine")] = UNSET
    tpot_ms_p90: Annotated[Milliseconds, About("(end - first token) / (generated - 1)", "ms", "engine")] = UNSET
    tpot_ms_p99: Annotated[Milliseconds, About("(end - first token) / (generated - 1)", "ms", "engine")] = UNSET
    e2e_ms_p50: Annotated[Milliseconds, About("end - arrival", "ms", "engine")] = UNSET
    e2e_ms_p90: Annotated[Milliseconds, About("end - arrival", "ms", "engine")] = UNSET
    e2e_ms_p99: Annotated[Milliseconds, About("end - arrival", "ms", "engine")] = UNSET

    by_hit: Annotated[
        dict[str, Latencies] | UnsetType,
        About("latencies of requests that found something cached (hit) and of the others (miss)", scope="engine"),
    ] = UNSET

    def to_row(self) -> Row:
        """The row: what ran first, then what came of it."""
        values = msgspec.to_builtins(self)
        for name in ("schema", "trace", "trace_sha256", "config"):
            del values[name]
        return head(self.trace, self.trace_sha256, self.config) | values


def head(trace: str, trace_sha256: str, config: RunConfig) -> Row:
    """The fields of a row that say what ran."""
    return {"schema": SCHEMA, "trace": trace, "trace_sha256": trace_sha256} | config.values()


def write_rows(path: Path, rows: Iterable[Row] | Iterable[msgspec.Struct]) -> None:
    """Writes JSON lines, under a temporary name until the file is whole."""
    encode = msgspec.json.Encoder().encode
    with open_output(path) as file:
        for row in rows:
            file.write(encode(row).decode() + "\n")
