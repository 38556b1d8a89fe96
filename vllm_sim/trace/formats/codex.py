"""Session files of Codex (~/.codex/sessions, rollout-*.jsonl): a file, or a folder with all that are in it.

A line is `timestamp`, `type`, `payload`. `session_meta` has the session's id, `turn_context` the model, `response_item`
the chat: messages, calls of tools (`call_id`, `name`, `arguments`) and their outputs. What the model wrote between two
things that it was sent is one answer; its tokens are those of the `token_count` event after it
(`info.last_token_usage`). `compacted` puts a summary in place of the chat. Reasoning is no part of the chat.

The format is not described by its maker; this follows what projects that read it have written down (0.46 to 0.65 of
Codex), and was not checked against a real file. What calls.py says of texts and lengths holds here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.files import decode_text, iter_raw_lines, parse_json
from vllm_sim.trace.formats.calls import AgentCall, records_of
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import files_of, time_ms
from vllm_sim.trace.record import Record, TraceError

_TEXTS = ("input_text", "output_text", "text")


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields the calls by their times; a line that is not of the format is left out."""
    yield from records_of(_calls(path, options, report), options, report)


def _calls(path: Path, options: Options, report: Report) -> Iterator[AgentCall]:
    for file in files_of(path, "rollout-*.jsonl"):
        rollout = _Rollout(file.name.partition(".")[0])
        for number, line in iter_raw_lines(file, options.on_bytes):
            try:
                rollout.read(parse_json(decode_text(line)))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                if report.strict:
                    raise TraceError(file, number, str(error)) from None
                report.drop("line: not of the format", f"{file.name}, line {number}: {error}")
        rollout.close()
        yield from rollout.calls


class _Rollout:
    """A session, line by line."""

    def __init__(self, session: str):
        self.session = session
        self.calls: list[AgentCall] = []
        self.model: str | None = None
        self._chat: list[dict[str, Any]] = []
        self._sent_ms = 0.0
        self._open: AgentCall | None = None

    def read(self, row: Any) -> None:
        """Takes a line."""
        kind, payload, ms = row["type"], row["payload"], time_ms(row, "timestamp")
        if kind == "session_meta" and isinstance(payload.get("id"), str):
            self.session = payload["id"]
        elif kind == "turn_context":
            self.model = payload.get("model") or self.model
        elif kind == "compacted":
            self.close()
            self._chat = [{"role": "user", "content": payload["message"]}]
        elif kind == "event_msg" and payload.get("type") == "token_count" and payload.get("info"):
            self._count(payload["info"].get("last_token_usage") or {})
        elif kind == "response_item":
            self._item(payload, ms)

    def _count(self, usage: dict[str, Any]) -> None:
        call = self._open or (self.calls[-1] if self.calls else None)
        if call is not None and call.output_tokens is None:
            call.input_tokens = usage.get("input_tokens")
            call.cached_tokens = usage.get("cached_input_tokens") or 0
            call.output_tokens = usage.get("output_tokens")

    def _item(self, item: dict[str, Any], ms: float) -> None:
        kind = item["type"]
        if kind == "message" and item["role"] != "assistant":
            self._send({"role": item["role"], "content": _text(item["content"])}, ms)
        elif kind.endswith("_output"):
            output = item.get("output")
            text = output if isinstance(output, str) else _text((output or {}).get("content") or [])
            self._send({"role": "tool", "content": text, "tool_call_id": str(item.get("call_id"))}, ms)
        elif kind == "message":
            answer = self._answering(ms)
            answer["content"] = "\n".join(filter(None, (answer["content"], _text(item["content"]))))
        elif kind.endswith("_call"):
            arguments = item.get("arguments") or {"input": item.get("input") or item.get("action")}
            function = {"name": item.get("name") or kind.removesuffix("_call"), "arguments": arguments}
            call = {"id": str(item.get("call_id")), "type": "function", "function": function}
            self._answering(ms).setdefault("tool_calls", []).append(call)

    def _send(self, message: dict[str, Any], ms: float) -> None:
        self.close()
        self._chat.append(message)
        self._sent_ms = ms

    def _answering(self, ms: float) -> dict[str, Any]:
        """The answer that is being written."""
        if self._open is None:
            name = f"{self.session}-{len(self.calls)}"
            answer = {"role": "assistant", "content": ""}
            sent = self._sent_ms or ms
            self._open = AgentCall(name, self.session, sent, ms, list(self._chat), answer, more={"workload": "agent"})
            self._open.model = self.model
        self._open.answered_ms = ms
        return self._open.answer

    def close(self) -> None:
        """Ends the answer that is being written, if one is."""
        if self._open is not None:
            self._chat.append(self._open.answer)
            self.calls.append(self._open)
            self._open = None


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part.get("type") in _TEXTS)
