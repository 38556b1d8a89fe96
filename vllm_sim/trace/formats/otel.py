"""OpenTelemetry spans of the GenAI conventions, as OTLP JSON: one export a line, or a file with one.

Read are spans with `gen_ai.operation.name` chat, text_completion or generate_content, at
resourceSpans[].scopeSpans[].spans[]. `gen_ai.input.messages`, `gen_ai.output.messages` and `gen_ai.system_instructions`
(JSON, or attribute values) give the texts, where they were captured; `gen_ai.usage.input_tokens`, `output_tokens` and
`cache_read.input_tokens` the lengths; `gen_ai.conversation.id` the session, else the trace; `startTimeUnixNano` the
arrival. A span without texts is taken as lengths (see calls.py, --hash-only), where it shares what the provider had in
its cache. Read: the conventions' page of spans, 1.37. Not checked against the export of a real application.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.calls import AgentCall, records_of
from vllm_sim.trace.formats.fields import refuse
from vllm_sim.trace.formats.json_stream import iter_elements
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import files_of
from vllm_sim.trace.record import Record, TraceError

OPERATIONS = ("chat", "text_completion", "generate_content")


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the calls of the model by their times; a span that cannot be used is left out."""
    calls = sorted(_calls(path, options, report), key=lambda call: call.sent_ms)
    if not options.hash_only and not any(call.messages for call in calls):
        report.repair("no span has texts: lengths are taken", path)
        options = options.as_lengths()
    yield from records_of(calls, options, report)


def _calls(path: Path, options: Options, report: Report) -> Iterator[AgentCall]:
    for file in files_of(path, "*.json", "*.jsonl"):
        for export in iter_elements(file, lambda where: report.drop("export: cut off", where), options.on_bytes):
            for span in _spans(export):
                try:
                    call = _call(span)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    if report.strict:
                        raise TraceError(file, 0, f"span {span.get('spanId')}: {error}") from None
                    report.drop("span: not of the format", f"{file.name}, span {span.get('spanId')}: {error}")
                    continue
                if call is not None:
                    yield call


def _spans(export: Any) -> Iterator[dict[str, Any]]:
    for resource in export.get("resourceSpans", []) if isinstance(export, dict) else []:
        for scope in resource.get("scopeSpans", []):
            yield from scope.get("spans", [])


def _call(span: dict[str, Any]) -> AgentCall | None:
    """The call of a span; None where it is no call of a model."""
    values = {one["key"]: _value(one.get("value") or {}) for one in span.get("attributes", [])}
    if values.get("gen_ai.operation.name") not in OPERATIONS:
        return None
    system = [{"role": "system", "parts": _parsed(values.get("gen_ai.system_instructions"))}]
    sent = [*system, *_parsed(values.get("gen_ai.input.messages"))]
    messages = [message for one in sent for message in _messages(one)]
    output = _parsed(values.get("gen_ai.output.messages"))
    reasons = values.get("gen_ai.response.finish_reasons")
    more = {"finish_reason": reasons[0]} if isinstance(reasons, list) and reasons else {}
    return AgentCall(
        id=str(span.get("spanId")),
        session=str(values.get("gen_ai.conversation.id") or span.get("traceId")),
        sent_ms=int(span["startTimeUnixNano"]) / 1e6,
        answered_ms=int(span["endTimeUnixNano"]) / 1e6,
        messages=messages,
        answer=next((m for one in output for m in _messages(one)), {"role": "assistant", "content": ""}),
        input_tokens=values.get("gen_ai.usage.input_tokens"),
        cached_tokens=values.get("gen_ai.usage.cache_read.input_tokens") or 0,
        output_tokens=values.get("gen_ai.usage.output_tokens"),
        model=values.get("gen_ai.request.model"),
        more=more,
    )


def _value(value: dict[str, Any]) -> Any:
    """An attribute's value as JSON has it; OTLP writes whole numbers as texts."""
    kind = next(iter(value), "")
    inner: Any = value.get(kind)
    if kind == "intValue":
        return int(inner)
    if kind == "arrayValue":
        return [_value(one) for one in inner.get("values", [])]
    if kind == "kvlistValue":
        return {one["key"]: _value(one["value"]) for one in inner.get("values", [])}
    return inner


def _parsed(value: Any) -> list[Any]:
    found = json.loads(value) if isinstance(value, str) else value
    if found is not None and not isinstance(found, list):
        raise refuse("messages", found, "a list")
    return found or []


def _messages(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The messages of a chat that one of the conventions stands for; results of tools are each one of their own."""
    parts = message.get("parts") or []
    texts = [part["content"] for part in parts if part.get("type") == "text"]
    calls = [
        {"id": part.get("id"), "type": "function", "function": {"name": part["name"], "arguments": part["arguments"]}}
        for part in parts
        if part.get("type") == "tool_call"
    ]
    for part in parts:
        if part.get("type") == "tool_call_response":
            result = part.get("response", part.get("result"))
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
            yield {"role": "tool", "content": text, "tool_call_id": str(part.get("id"))}
    if texts or calls:
        yield {"role": message["role"], "content": "\n".join(texts)} | ({"tool_calls": calls} if calls else {})
