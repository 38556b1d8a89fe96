"""What a client says of its session: that it is over, when it goes on, how much its blocks are worth, and for how long.

In a trace a hint is a field of its row, or in the row's `kv_hints`, which has the form of vLLM's own (v1/kv_hints/
protocol.py of 0.32, read): a list of `actions`, each with an `action_type` and a `payload`. Actions of the type
`session` are read; their payload has the names of the fields. A field of the row goes before its `kv_hints`. In a
server the same names come with the request itself (engine/hints.py).
"""

import math
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

from vllm_sim.trace.record import Record

ACTION_TYPE = "session"


class Hints(NamedTuple):
    """What a request's client says; NaN where it says nothing."""

    session_end: float = math.nan
    """1: the session is over with this request; 0: it goes on."""
    next_turn_ms: float = math.nan
    """From the answer to the session's next request."""
    retention_priority: float = math.nan
    """0 to 100: what is lower is evicted first; TensorRT-LLM takes 35 where nobody says it."""
    retention_ms: float = math.nan
    """For how long the priority holds, from the request's arrival."""


NO_HINTS = Hints()
_said = attrgetter("kv_hints", *Hints._fields)
_NOTHING = (None,) * 5
_MOST = {"session_end": 1.0, "retention_priority": 100.0}


def hints_of(record: Record) -> Hints:
    """The hints of a row.

    Raises:
        ValueError: an action of its `kv_hints` is none.
    """
    if _said(record) == _NOTHING:
        return NO_HINTS
    values = read_actions((record.kv_hints or {}).get("actions", []))
    values |= {name: value for name in Hints._fields if (value := getattr(record, name)) is not None}
    return read_hints(values)


def read_actions(actions: Any) -> dict[str, Any]:
    """The values in the actions of `kv_hints`, the last one of each name.

    Raises:
        ValueError: the actions are no list of objects with a type and a payload.
    """
    if not isinstance(actions, Iterable) or isinstance(actions, str | Mapping):
        raise ValueError(f"actions of kv_hints are {actions!r}; allowed: a list of objects")
    values: dict[str, Any] = {}
    for action in actions:
        payload = action.get("payload", {}) if isinstance(action, Mapping) else None
        if not isinstance(payload, Mapping):
            raise ValueError(f"an action of kv_hints is {action!r}; allowed: an object with action_type and payload")
        if action.get("action_type") == ACTION_TYPE:
            values |= payload
    return values


def read_hints(values: Mapping[str, Any]) -> Hints:
    """The hints among named values; other names are passed over.

    Raises:
        ValueError: a value is out of range.
    """
    found = {}
    for name in Hints._fields:
        value = values.get(name)
        if value is None:
            continue
        most = _MOST.get(name, 2.0**53)
        if not isinstance(value, bool | int | float) or not 0 <= value <= most:
            raise ValueError(f"{name} is {value!r}; allowed: 0 to {most:g}")
        found[name] = float(value)
    return Hints(**found)
