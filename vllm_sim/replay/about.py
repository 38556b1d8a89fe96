"""What is said of a field of a configuration or a row: meaning, unit, what is allowed. Everything else is derived."""

from functools import cache
from typing import Any, Literal, NamedTuple, get_type_hints

import msgspec


class About(msgspec.Struct, frozen=True):
    """What is to be said of a field.

    Attributes:
        text: What it means; the command's help.
        unit: Of its value.
        scope: `engine` where no other backend heeds it; `groups` where the others do too, for a model whose layers do
            not all keep the same. Rows of others leave it out.
        at_least: The smallest value allowed.
        choices: The values allowed.
        grid: The plural under which a sweep takes a list of it.
        metavar: How a value is written in the command's help.
        compared: Whether `--expect` compares it.
        plot: What plots do with rows that differ in it: draw them `apart`, as a `line` each, along an `axis`, or show
            their mean, as of a `seed`.
    """

    text: str
    unit: str = ""
    scope: Literal["all", "engine", "groups"] = "all"
    at_least: int | None = None
    choices: tuple[str, ...] = ()
    grid: str = ""
    metavar: str = ""
    compared: bool = False
    plot: Literal["apart", "line", "axis", "seed"] = "apart"


class Field(NamedTuple):
    """A field of a type of rows."""

    name: str
    kind: Any
    about: About


@cache
def fields_of(kind: type) -> tuple[Field, ...]:
    """The fields of a type, in their order, with what is said of them; those without an `About` are left out."""
    hints = get_type_hints(kind, include_extras=True)
    found = []
    for name in kind.__struct_fields__:  # type: ignore[attr-defined]
        about = [mark for mark in getattr(hints[name], "__metadata__", ()) if isinstance(mark, About)]
        if about:
            found.append(Field(name, hints[name].__origin__, about[0]))
    return tuple(found)
