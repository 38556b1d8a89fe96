"""Which earlier exchange a request continues: its prompt begins with that one's prompt and answer.

A prompt is turned into bytes such that a prompt that continues another begins with the other's bytes. Of a chat these
are its messages in a form that clients do not change when they send the history back: role, text without blanks
around it, names and arguments of tool calls; reasoning is left out, because clients leave it out. Of a completion
they are its text, or its token ids. Tenant and cache salt come first: nobody continues another one's conversation.

Not found again: a history that the client shortened or edited, and exchanges that fell out of the index (the oldest
of more than its capacity). Such a request begins a session.
"""

import contextlib
import hashlib
import json
from array import array
from collections import Counter, OrderedDict, deque
from typing import Any, NamedTuple

from vllm_sim.trace.record import Record

CAPACITY = 20_000
"""Exchanges that are remembered, about 500 bytes each."""
_SAME_HISTORY = 1024
"""Of exchanges with the same history, so many are kept apart."""
_TAIL_BYTES = 16


class Place(NamedTuple):
    """Where a request stands in its session; turns count from 0."""

    session_id: str | int
    turn: int


class _Alike:
    """Exchanges with the same history."""

    def __init__(self) -> None:
        self.waiting: deque[Place] = deque(maxlen=_SAME_HISTORY)
        """Those that no request has continued yet."""
        self._continued: deque[Place] = deque(maxlen=_SAME_HISTORY)
        """The others, the one that was continued last at the end."""

    def next(self) -> Place:
        """The one that a request with this history continues."""
        return self.waiting[-1] if self.waiting else self._continued[0]

    def mark(self, place: Place) -> None:
        """Notes that an exchange is continued; one that is not here was continued from elsewhere."""
        for places in (self.waiting, self._continued):
            if place in places:
                places.remove(place)
                self._continued.append(place)
                return


class Sessions:
    """An index of exchanges by their history (prompt and answer), of bounded size."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._places: OrderedDict[tuple[int, bytes, bytes], _Alike] = OrderedDict()
        # The index is searched at every length that it knows: most are ruled out by the last bytes, without a hash.
        self._tails: dict[int, Counter[bytes]] = {}
        self._turns: OrderedDict[str | int, int] = OrderedDict()

    def continued(self, record: Record) -> Place | None:
        """The exchange that the record's prompt continues, or None. Where several fit, the longest.

        Of several with the same history (the same question, the same answer), the last that is not continued yet;
        where all are, the one that was continued longest ago.
        """
        alike = self._continued(record)
        return None if alike is None else alike.next()

    def _continued(self, record: Record) -> "_Alike | None":
        prompt = _prompt_bytes(record)
        if prompt is None:
            return None
        for length in sorted((n for n in self._tails if n <= len(prompt)), reverse=True):
            if prompt[max(0, length - _TAIL_BYTES) : length] not in self._tails[length]:
                continue
            alike = self._places.get(_key(prompt[:length]))
            if alike is not None:
                return alike
        return None

    def next_turn(self, session_id: str | int) -> int:
        """The turn of the next request of a session that the client named."""
        return self._turns.get(session_id, -1) + 1

    def remember(self, record: Record) -> None:
        """Takes in a record that has its session and turn."""
        if record.session_id is None:
            return
        turn = record.turn or 0
        before = self._continued(record)
        if before is not None:
            before.mark(Place(record.session_id, turn - 1))
        self._turns[record.session_id] = max(turn, self._turns.get(record.session_id, 0))
        self._turns.move_to_end(record.session_id)
        if len(self._turns) > self._capacity:
            self._turns.popitem(last=False)
        history = _history_bytes(record)
        if history is None:
            return
        key = _key(history)
        if key not in self._places:
            self._places[key] = _Alike()
            self._tails.setdefault(len(history), Counter())[key[1]] += 1
        self._places[key].waiting.append(Place(record.session_id, turn))
        self._places.move_to_end(key)
        if len(self._places) > self._capacity:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        (length, tail, _), _ = self._places.popitem(last=False)
        tails = self._tails[length]
        tails[tail] -= 1
        if not tails[tail]:
            del tails[tail]
        if not tails:
            del self._tails[length]


def _key(history: bytes) -> tuple[int, bytes, bytes]:
    return len(history), history[-_TAIL_BYTES:], hashlib.blake2b(history, digest_size=16).digest()


def _prompt_bytes(record: Record) -> bytes | None:
    owner = json.dumps([record.tenant, record.cache_salt]).encode()
    if record.messages is not None:
        return owner + b"chat" + b"".join(map(_message_bytes, record.messages))
    if record.prompt is not None:
        return owner + b"text" + record.prompt.encode("utf-8", "surrogatepass")
    if record.prompt_token_ids is not None:
        return owner + b"ids." + _id_bytes(record.prompt_token_ids)
    return None


def _history_bytes(record: Record) -> bytes | None:
    """The bytes that a request begins with which continues this one; None where the answer is empty or not known."""
    prompt = _prompt_bytes(record)
    if prompt is None:
        return None
    if record.messages is not None:
        message = record.extra.get("message", {"role": "assistant", "content": record.response})
        return prompt + _message_bytes(message)
    if record.prompt is not None:
        text = record.extra.get("text", record.response)
        return prompt + text.encode("utf-8", "surrogatepass") if isinstance(text, str) and text else None
    # A client that continues after an end may leave the end token out, or put another in its place.
    ids = record.response_token_ids or []
    ids = ids[:-1] if record.finish_reason == "stop" else ids
    return prompt + _id_bytes(ids) if ids else None


def _id_bytes(ids: list[int]) -> bytes:
    return array("I", ids).tobytes()


def _message_bytes(message: dict[str, Any]) -> bytes:
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        content = "".join(part["text"] for part in content)
    if isinstance(content, str):
        content = content.strip()
    calls = message.get("tool_calls")
    known = [_call(call) for call in calls] if isinstance(calls, list) else []
    return json.dumps([message.get("role"), content or "", known], sort_keys=True).encode() + b"\n"


def _call(call: Any) -> list[Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        return [call]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # clients send them back with other blanks in them
            arguments = json.loads(arguments)
    return [function.get("name"), arguments]
