"""Checks of single fields of a foreign row; each raises ValueError with field, value and what is allowed.

Not left to msgspec, as a record's fields are: it has no type for a whole number that is written as 12.0.
"""

import json
from typing import Any


def refuse(name: str, value: Any, allowed: str) -> ValueError:
    """The error for a value that is not allowed."""
    shown = json.dumps(value, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ValueError(f"{name} is {shown}; allowed: {allowed}")


def whole_number(row: dict[str, Any], name: str, minimum: int) -> int:
    """A whole number; 12.0 counts as one, since data frames write them so."""
    value = row.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < minimum:
        raise refuse(name, value, f"a whole number ({minimum} or more)")
    return value


def number(row: dict[str, Any], name: str) -> float:
    """A number, 0 or more."""
    value = row.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise refuse(name, value, "a number (0 or more)")
    return value


def name_of(row: dict[str, Any], name: str) -> str | int:
    """A text or a whole number."""
    value = row.get(name)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise refuse(name, value, "a text or a whole number")
    return value


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    """The row's other keys, to be kept as they are."""
    return {key: value for key, value in row.items() if key not in names}
