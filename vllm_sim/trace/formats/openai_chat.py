"""OpenAI chats, one object a line: `messages`, optionally `tools` and an answer.

Two shapes are read. A conversation (as for fine-tuning) ends in an assistant message, and each of its assistant
messages becomes a request with the messages before it. A logged request has its answer next to the messages, in
`response`: a text, an assistant message or a whole chat completion (its finish reason is kept).
Request and answer may also lie in `body` and `response.body`, as in the files of the batch API. `custom_id` or `id`
names the conversation, else its line does. Tool calls are written into the response's text as the exported model's
chat template writes them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vllm_sim.trace.formats.conversations import Conversation, answer_text, content_text, requests_of
from vllm_sim.trace.formats.fields import refuse
from vllm_sim.trace.formats.lines import convert_lines
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.record import Record, parse_record

ROLES = ("system", "developer", "user", "assistant", "tool")
# Fields of a logged request that mean the same in a native record.
KEPT = ("timestamp", "session_id", "turn", "workload", "tenant", "priority", "cache_salt", "chat_template_kwargs")


def convert(path: Path, options: Options, report: Report) -> Iterator[Record]:
    """Yields requests in the file's order; bad lines as `convert_lines` has it."""
    return convert_lines(path, options, report, lambda row, line: _records(row, line, options, report))


def _records(row: dict[str, Any], line: int, options: Options, report: Report) -> Iterator[Record]:
    request = row["body"] if isinstance(row.get("body"), dict) else row
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise refuse("messages", messages, "a list of chat messages, one at least")
    for place, message in enumerate(messages):
        _check_message(f"messages[{place}]", message)
    tools = request.get("tools") or None
    if tools is not None and not (isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools)):
        raise refuse("tools", tools, "a list of tools")
    kept = {name: row[name] for name in KEPT if row.get(name) is not None}
    name = row.get("custom_id", row.get("id", f"line-{line}"))
    response = row.get("response", row if "choices" in row else None)
    if response is not None:
        sent = {"messages": messages, "id": name, **kept, **_answer(response), **({"tools": tools} if tools else {})}
        for key in ("max_completion_tokens", "max_tokens"):
            if request.get(key) is not None:
                sent["max_tokens"] = request[key]
        yield parse_record(sent)
        return
    answered = max((place for place, message in enumerate(messages) if message["role"] == "assistant"), default=0)
    if not answered:
        raise ValueError("no answer; allowed: an assistant message after another one, or a response field")
    if answered + 1 < len(messages):
        report.drop("turn: not answered", f"line {line}", len(messages) - answered - 1)
    for record in requests_of(Conversation(name, messages[: answered + 1], tools), options.turns):
        values = record.to_json() | {key: value for key, value in kept.items() if key != "turn"}
        if record.turn and "timestamp" in values:
            del values["timestamp"]  # the line's time is that of its first request
        yield parse_record(values)


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        role = message.get("role") if isinstance(message, dict) else message
        raise refuse(f"{where}.role", role, ", ".join(ROLES))
    try:
        content_text(message.get("content"))
        if message["role"] == "assistant":
            answer_text(message)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{where}: {error if isinstance(error, ValueError) else 'tool_calls are broken'}") from None


def _answer(response: Any) -> dict[str, Any]:
    """The response field of a logged request, with finish_reason where it is known."""
    if isinstance(response, str):
        return {"response": response}
    if isinstance(response, dict) and isinstance(response.get("body"), dict):
        response = response["body"]
    if isinstance(response, dict) and response.get("role") == "assistant":
        _check_message("response", response)
        return {"response": answer_text(response)}
    try:
        choice = response["choices"][0]
        message = choice["message"]
    except (KeyError, IndexError, TypeError):
        raise refuse("response", response, "a text, an assistant message, a chat completion") from None
    _check_message("response.choices[0].message", {"role": "assistant", **message})
    values = {"response": answer_text(message)}
    if isinstance(choice.get("finish_reason"), str):
        values["finish_reason"] = choice["finish_reason"]
    return values
