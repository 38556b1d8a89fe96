"""One class, run twice: as plain Python, and compiled by numba without a change.

`@compiled` leaves a class as it is, so that a test can step through it, and lets `native(instance)` copy an instance
into a numba structure with the same fields and methods. Such a class holds whole numbers, floats, truth values, numpy
arrays and other compiled objects, all set in `__init__`; its methods use what numba knows. Arrays are shared with the
copy, numbers are not: what Python wants to read afterwards belongs in an array.

Measured before choosing (numba 0.65; LRU list, 288,500 references; a call from Python): a structref 2.3 ms and 0.7 us,
a NamedTuple of arrays 2.2 to 3.2 ms and 1.1 us or more (every array is unpacked), a jitclass 1.9 ms and 0.5 us, but a
jitclass cannot be cached and is compiled again by every process.

numba's cache looks at the file of the compiled function alone and would serve a kernel with an old policy in it. The
name of a structure therefore carries a digest of its class's sources: a change in any of them is another type.
"""

import hashlib
import inspect
import sys
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import types
from numba.core.extending import overload, overload_method
from numba.experimental import structref

_T = TypeVar("_T")
_STRUCTS: dict[type, type[types.StructRef]] = {}


class Native(structref.StructRefProxy):
    """The handle of a numba structure; its fields are read by compiled code only."""


def _digest(cls: type) -> str:
    files = {inspect.getsourcefile(base) for base in cls.__mro__ if base is not object}
    text = b"".join(Path(file).read_bytes() for file in sorted(file for file in files if file))
    return hashlib.sha256(text).hexdigest()[:12]


def compiled(cls: type[_T]) -> type[_T]:
    """Declares that numba can compile the methods of this class."""
    digest = _digest(cls)

    def __init__(self: Any, fields: Any) -> None:
        types.StructRef.__init__(self, fields)
        self.name += f"@{digest}"

    name = f"{cls.__name__}Struct"
    struct = type(name, (types.StructRef,), {"__init__": __init__, "__module__": cls.__module__, "__qualname__": name})
    # Cached signatures are unpickled by name.
    setattr(sys.modules[cls.__module__], name, struct)
    structref.register(struct)
    structref.define_boxing(struct, Native)
    methods = {n: f for base in reversed(cls.__mro__) for n, f in vars(base).items() if inspect.isfunction(f)}
    for method, function in methods.items():
        if not method.startswith("__"):
            overload_method(struct, method, strict=False)(_always(function))
    _STRUCTS[cls] = struct
    return cls


def _always(function: Any) -> Any:
    """What numba asks for the code of a method, whatever the types."""

    def resolve(*_: Any) -> Any:
        return function

    # numba binds arguments by the signature of what it asks.
    resolve.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return resolve


def is_compiled(cls: type) -> bool:
    """Whether the very class was declared; a subclass of a compiled class runs as plain Python until it is too."""
    return cls in _STRUCTS


def native(instance: Any) -> Any:
    """A numba structure with the fields and methods of an instance of a compiled class; arrays are shared.

    Raises:
        ValueError: a field holds what numba cannot keep.
    """
    values = tuple(native(value) if is_compiled(type(value)) else value for value in vars(instance).values())
    try:
        fields = [(name, numba.typeof(value)) for name, value in zip(vars(instance), values, strict=True)]
    except ValueError as error:
        raise ValueError(f"{type(instance).__qualname__} cannot be compiled: {error}") from None
    return _build(_STRUCTS[type(instance)](fields), values)


def _fill(struct: Any, values: Any) -> None:
    """Stands for the assignments that `_overload_fill` writes for each type of structure."""
    raise NotImplementedError


@overload(_fill, strict=False)
def _overload_fill(struct: Any, values: Any) -> Any:
    lines = [f"    struct.{name} = values[{i}]" for i, name in enumerate(struct.field_dict)]
    namespace: dict[str, Any] = {}
    exec("\n".join(["def fill(struct, values):", *lines]), namespace)
    return namespace["fill"]


@numba.njit(cache=True)
def _build(kind: Any, values: Any) -> Any:
    struct = structref.new(kind)
    _fill(struct, values)
    return struct
