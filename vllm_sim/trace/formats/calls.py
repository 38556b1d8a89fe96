"""Calls of a coding agent, as its session files have them, and the record of each: with its texts or as lengths.

With texts a call's prompt is the chat before it. System prompt and tools are not in the files, so prompts are shorter
than they were; `recorded_input_tokens` keeps what the provider counted. As lengths (--hash-only) prompts are as long as
the provider counted them, and hold no text: a call shares all of its session's call before it, or, where it is shorter
(a compaction), what the provider had in its cache. Of a session's first call that is what all sessions of the same
model share: system prompt and tools. That last point is an assumption.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from vllm_sim.trace.formats.conversations import answer_text
from vllm_sim.trace.formats.lengths import Contexts
from vllm_sim.trace.formats.options import Options, Report
from vllm_sim.trace.formats.sources import by_arrival
from vllm_sim.trace.record import Record, parse_record


@dataclass(slots=True)
class AgentCall:
    """A call of the model."""

    id: str
    session: str
    sent_ms: float
    """When the last message before the answer was written."""
    answered_ms: float
    messages: list[dict[str, Any]]
    """The chat before the answer."""
    answer: dict[str, Any]
    """The assistant's message."""
    input_tokens: int | None = None
    """By the provider, with those that it had in its cache."""
    cached_tokens: int = 0
    output_tokens: int | None = None
    model: str | None = None
    more: dict[str, Any] = field(default_factory=dict)
    """Fields of the record, or keys that are kept."""


def records_of(calls: Iterable[AgentCall], options: Options, report: Report) -> Iterator[Record]:
    """Yields the records of calls, each session's in their order; by their times."""
    contexts, ends, turns = Contexts(), dict[str, float](), dict[str, int]()
    lengths: dict[str, int] = {}
    timed = []
    for call in calls:
        values: dict[str, Any] = {"id": call.id, "session_id": call.session, "turn": turns.get(call.session, 0)}
        if options.hash_only:
            if not call.input_tokens or call.output_tokens is None:
                report.drop("call: the provider's count of tokens is not there", call.id)
                continue
            before = lengths.get(call.session)
            grows = before is not None and call.input_tokens >= before
            shared = before if grows and before is not None else call.cached_tokens
            values |= contexts.prompt(call.session, call.input_tokens, shared, call.model)
            values["output_length"] = call.output_tokens
            lengths[call.session] = call.input_tokens
        else:
            response = answer_text(call.answer)
            if not call.messages or not response:
                report.drop("call: no text before it, or none in the answer", call.id)
                continue
            values |= {"messages": call.messages, "response": response}
            if call.input_tokens is not None:
                values["recorded_input_tokens"] = call.input_tokens
        if call.session in ends:
            values["think_time_ms"] = round(max(0.0, call.sent_ms - ends[call.session]), 3)
        if call.model is not None:
            values["model"] = call.model
        ends[call.session] = call.answered_ms
        turns[call.session] = turns.get(call.session, 0) + 1
        timed.append((call.sent_ms, parse_record(values | call.more)))
    yield from by_arrival(timed)
