"""Whether a method of ours takes every call that upstream's signature allows.

Probed with calls, not compared as text: all arguments by place, all by name, the required ones alone. Types and return
values are not looked at.
"""

import inspect
from collections.abc import Callable, Iterator
from inspect import Parameter, Signature
from typing import Any

Call = tuple[list[str], dict[str, str]]
"""Arguments by place and by name; each is its own name."""
_BY_PLACE = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


def refused(ours: Callable[..., Any], upstream: Callable[..., Any]) -> str | None:
    """Why ours does not take a call that upstream's signature allows; None where it takes them all."""
    signature = inspect.signature(ours)
    for by_place, by_name in _calls(inspect.signature(upstream)):
        try:
            signature.bind(*by_place, **by_name)
        except TypeError as error:
            arguments = [*by_place, *(f"{name}={name}" for name in by_name)]
            return f"({', '.join(arguments)}): {error}"
    return None


def _calls(upstream: Signature) -> Iterator[Call]:
    parameters = upstream.parameters.values()
    kinds = {parameter.kind for parameter in parameters}
    placed = [parameter for parameter in parameters if parameter.kind in _BY_PLACE]
    named = [parameter for parameter in parameters if parameter.kind is Parameter.KEYWORD_ONLY]
    more_placed = ["one_more"] if Parameter.VAR_POSITIONAL in kinds else []
    more_named = {"any_name": "any_name"} if Parameter.VAR_KEYWORD in kinds else {}
    required = [parameter for parameter in (*placed, *named) if parameter.default is Parameter.empty]
    yield (
        [parameter.name for parameter in placed if parameter in required],
        {parameter.name: parameter.name for parameter in named if parameter in required},
    )
    names = {parameter.name: parameter.name for parameter in named}
    yield [parameter.name for parameter in placed] + more_placed, names | more_named
    only_placed = [parameter.name for parameter in placed if parameter.kind is Parameter.POSITIONAL_ONLY]
    yield only_placed, {name.name: name.name for name in placed if name.name not in only_placed} | names
