"""Converters of foreign trace formats, one module a format: each yields native records as a stream."""

from collections.abc import Callable, Iterator
from pathlib import Path

from vllm_sim.trace.files import iter_records
from vllm_sim.trace.formats import (
    agentic_mooncake,
    bailian,
    bench_custom,
    claude_code,
    codex,
    kv_events,
    lmcache,
    mooncake,
    openai_chat,
    otel,
    sharegpt,
    tracelab,
    weka,
)
from vllm_sim.trace.formats.options import Dropped, Options, Report
from vllm_sim.trace.record import Record

Converter = Callable[[Path, Options, Report], Iterator[Record]]


def _native(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Records as they are: for packing, tagging and anonymising."""
    return (record for _, record in iter_records(path, options.on_bytes))


CONVERTERS: dict[str, Converter] = {
    "sharegpt": sharegpt.convert,
    "openai": openai_chat.convert,
    "mooncake": mooncake.convert,
    "bailian": bailian.convert,
    "vllm-custom": bench_custom.convert,
    "weka": weka.convert,
    "tracelab": tracelab.convert,
    "mooncake-agentic": agentic_mooncake.convert,
    "lmcache": lmcache.convert,
    "claude-code": claude_code.convert,
    "codex": codex.convert,
    "otel": otel.convert,
    "kv-events": kv_events.convert,
    "native": _native,
}

__all__ = ["CONVERTERS", "Converter", "Dropped", "Options", "Report"]
