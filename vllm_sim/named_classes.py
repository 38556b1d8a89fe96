"""Classes by name or by `module:Class`, as users give them: eviction policies, routers."""

import importlib
import importlib.metadata
import inspect
import sys
import traceback
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")


def installed_classes(group: str, taken: Collection[str], own: Mapping[str, str]) -> dict[str, str]:
    """The path `module:Class` of every class that has a name; this package's names cannot be taken.

    Args:
        group: the entry point group under which installed packages register theirs.
        taken: further names that cannot be taken.
        own: this package's classes.
    """
    installed = importlib.metadata.entry_points(group=group)
    return {point.name: point.value for point in installed if point.name not in taken} | dict(own)


def load_class(kind: str, name: str, path: str, base: type[_T], names: Collection[str]) -> type[_T]:
    """The class at a path.

    Args:
        kind: what it is, for messages.
        name: as the user gave it.
        path: `module:Class`; the module may lie in the working directory.
        base: what it must be a subclass of.
        names: the names that are known, for messages.

    Raises:
        ValueError: there is none.
    """
    module, colon, cls = path.partition(":")
    if not colon:
        raise ValueError(f"{kind} is {name!r}; allowed: {', '.join(names)}, or module:Class")
    if str(Path.cwd()) not in sys.path:  # an installed command does not look there
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{kind} is {name!r}, which cannot be loaded: {error}{place_of(error)}") from error
    if not (inspect.isclass(found) and issubclass(found, base)):
        raise ValueError(f"{kind} is {name!r}, which is not a subclass of {base.__module__}.{base.__qualname__}")
    return found


def make_instance(kind: str, name: str, cls: type[_T], context: Any, params: dict[str, Any]) -> _T:
    """An instance with its parameters.

    Raises:
        ValueError: no such parameter or value.
    """
    signature = inspect.signature(cls)
    allowed = list(signature.parameters)[1:]  # the context comes first, whatever its name
    for key in params:
        if key not in allowed:
            raise ValueError(f"{kind} {name} has no parameter {key!r}; allowed: {', '.join(allowed) or 'none'}")
    try:
        signature.bind(context, **params)
        return cls(context, **params)  # type: ignore[call-arg]
    except TypeError as error:
        raise ValueError(f"parameters of {kind} {name} are {params}: {error}{place_of(error)}") from error


def place_of(error: Exception) -> str:
    """Where in a user's code an error was raised, for a message; nothing where none of it ran."""
    ours = (__file__, importlib.__file__, inspect.__file__)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename not in ours and not frame.filename.startswith("<frozen "):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
