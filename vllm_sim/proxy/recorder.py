"""From requests and responses to records in the file, and the counts of what was recorded and what was not.

A record has token ids as its response where upstream names them: exact, with tool calls and reasoning in them. Else it
has the text; and where text alone is not what the model generated, it is marked with `replayable: false` and
`not_replayable_because`. Keys of a recording that the trace format does not know: `model`, `stop_reason`, and next to
token ids what the client saw, as `text` or `message`.
"""

import json
import logging
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from vllm_sim.proxy.answer import Answer, Choice
from vllm_sim.proxy.journal import Journal
from vllm_sim.proxy.request import Request
from vllm_sim.proxy.sessions import Place, Sessions
from vllm_sim.proxy.sse import EventReader
from vllm_sim.trace.record import Record, parse_record

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counts:
    """What became of the requests; `not_replayable` is a part of `recorded`, both in records, the rest in responses."""

    recorded: int = 0
    not_replayable: int = 0
    failed: int = 0
    """Upstream answered with an error, or not at all."""
    aborted: int = 0
    """The response broke off, or the client went away."""
    not_recorded: int = 0
    """No record could be made of request and response, or it could not be written."""

    def __str__(self) -> str:
        return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in asdict(self).items())


class Recorder:
    """Writes the records of whole responses, in the order in which these end."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Opens the file and reads what is in it, so that times, sessions and turns go on from there.

        Args:
            path: The trace; appended to if it is there.
            clock: Seconds, from any start.

        Raises:
            ValueError, OSError: as Journal and Journal.read.
        """
        self.counts = Counts()
        self._journal = Journal(path)
        self._sessions = Sessions()
        self._lines = 0
        last_ms = -1.0
        try:
            for record in self._journal.read():
                self._lines += 1
                last_ms = max(last_ms, record.timestamp or 0.0)
                self._sessions.remember(record)
        except BaseException:
            self._journal.close()
            raise
        self._clock, self._start, self._start_ms = clock, clock(), last_ms + 1

    def close(self) -> None:
        self._journal.close()

    def now_ms(self) -> float:
        """The time, in milliseconds from the start of the recording; that of a continued file is after all in it."""
        return round(self._start_ms + (self._clock() - self._start) * 1000, 3)

    def write(self, request: Request, answer: Answer, arrival_ms: float) -> None:
        """Writes the records of a whole response: of each prompt in order, each of its choices in order."""
        try:
            records = list(_records(request, answer, arrival_ms))
        except ValueError as error:
            self.counts.not_recorded += 1
            logger.warning("a response was not recorded: %s", error)
            return
        places: dict[int, Place] = {}
        for prompt_index, record in records:
            if prompt_index not in places:
                places[prompt_index] = self._place(request, record)
            self._append(structs.replace(record, **places[prompt_index]._asdict()))

    def _place(self, request: Request, record: Record) -> Place:
        if request.session_id is not None:
            return Place(request.session_id, self._sessions.next_turn(request.session_id))
        earlier = self._sessions.continued(record)
        return Place(f"session-{self._lines + 1}", 0) if earlier is None else earlier._replace(turn=earlier.turn + 1)

    def _append(self, record: Record) -> None:
        try:
            self._journal.append(record)
        except (ValueError, OSError) as error:
            self.counts.not_recorded += 1
            logger.error("a record was not written: %s", error)
            return
        self._lines += 1
        self._sessions.remember(record)
        self.counts.recorded += 1
        self.counts.not_replayable += record.extra.get("replayable") is False


class Recording:
    """One response while it arrives. It is settled once: recorded, or counted as what prevented that."""

    def __init__(self, recorder: Recorder, request: Request, arrival_ms: float) -> None:
        self._recorder, self._request, self._arrival_ms = recorder, request, arrival_ms
        self._answer = Answer()
        self._events: EventReader | None = None
        self._body = bytearray()
        self._unpacker: Any = None
        self._fault: str | None = None
        self._status = 0
        self._missing_bytes: int | None = None
        self._settled = False

    def begin(
        self, status: int, content_type: str = "", content_encoding: str = "", content_length: str | None = None
    ) -> None:
        """Takes in the head of the response."""
        self._status = status
        if content_length is not None and content_length.isdecimal():
            self._missing_bytes = int(content_length)
        if content_type.partition(";")[0].strip().lower() == "text/event-stream":
            self._events = EventReader()
        encoding = content_encoding.strip().lower()
        if encoding in ("gzip", "x-gzip"):
            self._unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        elif encoding not in ("", "identity"):
            self._fault = f"content-encoding is {encoding}; allowed: gzip, identity"

    def feed(self, chunk: bytes) -> None:
        """Takes in bytes of the body.

        What ends with them, by a stream's `[DONE]` or its length, is recorded before this returns: a client may go
        away as soon as it has these bytes, and go on with its next request.
        """
        if self._missing_bytes is not None:
            self._missing_bytes -= len(chunk)
        if not self._settled and self._fault is None and self._status == 200:
            self._read(chunk)
        if self._missing_bytes == 0:
            self.end(whole=True)

    def _read(self, chunk: bytes) -> None:
        try:
            if self._unpacker is not None:
                chunk = self._unpacker.decompress(chunk)
            if self._events is None:
                self._body += chunk
            else:
                self._add_events(self._events.feed(chunk))
        except (ValueError, RecursionError, zlib.error) as error:
            self._fault = str(error)

    def end(self, *, whole: bool) -> None:
        """Settles the response, unless it is settled.

        Args:
            whole: Whether the body came to its end; else upstream broke off or the client went away. A stream whose
                choices have all ended by then is recorded all the same.
        """
        if self._settled:
            return
        try:
            if self._fault is None and self._status == 200:
                self._add_rest(whole)
        except (ValueError, RecursionError) as error:
            self._fault = str(error)
        if not self._settled:
            self._settle(whole)

    def _add_rest(self, whole: bool) -> None:
        if self._events is not None:
            if whole:
                self._add_events(self._events.close())
        elif whole:
            self._answer.add(json.loads(self._body))

    def _add_events(self, events: list[str]) -> None:
        for event in events:
            if event.strip() == "[DONE]":
                self._settle(whole=True)
                return
            self._answer.add(json.loads(event))

    def _settle(self, whole: bool) -> None:
        self._settled = True
        counts, answer = self._recorder.counts, self._answer
        expected = len(self._request.prompts) * self._request.choices
        if self._status not in (0, 200) or answer.failed:
            counts.failed += 1
        elif self._fault is not None:
            counts.not_recorded += 1
            logger.warning("a response was not recorded: %s", self._fault)
        elif answer.is_whole() and (whole or len(answer.choices) >= expected):
            self._recorder.write(self._request, answer, self._arrival_ms)
        else:
            counts.aborted += 1


def _records(request: Request, answer: Answer, arrival_ms: float) -> Iterator[tuple[int, Record]]:
    """Yields (index of the prompt, record without its session)."""
    for index, choice in sorted(answer.choices.items()):
        prompt_index = index // request.choices
        if prompt_index >= len(request.prompts):
            raise ValueError(f"choice {index} of {len(request.prompts)} prompts with n = {request.choices}")
        yield prompt_index, _record(request, answer, choice, index, request.prompts[prompt_index], arrival_ms)


def _record(
    request: Request, answer: Answer, choice: Choice, index: int, prompt: dict[str, Any], arrival_ms: float
) -> Record:
    values = {**request.fields, "timestamp": arrival_ms, "finish_reason": choice.finish_reason}
    reasons = []
    prompt_ids = answer.prompt_token_ids if request.chat else choice.prompt_token_ids
    if request.shaped_by and prompt_ids:
        values = {key: value for key, value in values.items() if key not in ("tools", "chat_template_kwargs")}
        prompt = {"prompt_token_ids": prompt_ids}
    elif request.shaped_by:
        reasons.append(f"the prompt depends on {', '.join(request.shaped_by)}")
    if request.has_media:
        reasons.append("a message holds something other than text")
    response, lost = _response(request, answer, choice, prompt)
    reasons += lost
    if answer.id is not None:
        values["id"] = answer.id if len(answer.choices) == 1 else f"{answer.id}-{index}"
    if answer.model is not None:
        values["model"] = answer.model
    if choice.stop_reason is not None:
        values["stop_reason"] = choice.stop_reason
    if reasons:
        values |= {"replayable": False, "not_replayable_because": "; ".join(reasons)}
    return parse_record(values | prompt | response)


def _response(
    request: Request, answer: Answer, choice: Choice, prompt: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The response fields, and what prevents a replay from giving the same."""
    counted = answer.completion_tokens if len(answer.choices) == 1 else None
    seen = {"message": choice.message()} if request.chat else {"text": choice.text}
    ids = choice.token_ids
    if ids is not None and counted in (None, len(ids)):
        if request.ignores_end:  # an end token may stand in the middle, where no trace may have one
            return {"output_length": len(ids), **seen}, ["ignore_eos"]
        return {"response_token_ids": ids, **seen}, []
    text, lost = choice.text, []
    if request.echo:
        if isinstance(prompt.get("prompt"), str) and text.startswith(prompt["prompt"]):
            text = text.removeprefix(prompt["prompt"])
            seen = {"text": text}
        else:
            lost.append("echo")
    if choice.tool_calls:
        lost.append("tool calls without token ids")
    if choice.reasoning or answer.reasoning_tokens or request.hides_reasoning:
        lost.append("reasoning without token ids")
    if choice.refused:
        lost.append("a refusal without token ids")
    if not lost:
        return {"response": text}, lost
    return ({"response": text} if counted is None else {"output_length": counted}) | seen, lost
