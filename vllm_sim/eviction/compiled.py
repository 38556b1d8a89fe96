"""One class, run twice: as plain Python, and compiled by numba without a change.

`@compiled` leaves a class as it is, so that a test can step through it, and lets `native(instance)` copy an instance
into a numba structure with the same fields and methods. Such a class holds whole numbers, floats, truth values, numpy
arrays and other compiled objects, all set in `__init__`; its methods use what numba knows, and set numbers alone. A
field keeps the type that it has in `__init__`: compiled code cuts a fraction off where Python would turn it to a float.
Arrays are shared with the copy, numbers are not: what Python wants to read afterwards belongs in an array.

A compiled function takes structures and reads them through `view(structure)`, a bare pointer. Through numba's own
structref each access of an array counts references, which took more than half of the kernel's time; the structure,
which the caller holds, keeps the arrays alive. A jitclass cannot be cached: every process would compile it again.

numba's cache looks at the file of the compiled function alone and would serve a kernel with an old policy in it. The
name of a structure therefore carries the fingerprint of its class (provenance.py): other code is another type. And it
reads the types of all that was ever compiled: those of a class that this process has not imported, or that is no more,
stay unread.
"""

import hashlib
import inspect
import pickle
import sys
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np
from numba import types
from numba.core import cgutils, serialize
from numba.core.datamodel import models
from numba.core.extending import (
    infer_getattr,
    intrinsic,
    lower_getattr_generic,
    lower_setattr_generic,
    overload,
    overload_method,
    register_model,
)
from numba.core.typing.templates import AttributeTemplate
from numba.experimental import structref

from vllm_sim.provenance import fingerprint

_T = TypeVar("_T")
_STRUCTS: dict[type, type[types.StructRef]] = {}
_VIEWS: dict[type, type["View"]] = {}
_METHOD = {"forceinline": True, "no_cfunc_wrapper": True}
"""How numba compiles a method. Only compiled code calls it: an entry for C took a sixth of the time."""


class Native(structref.StructRefProxy):
    """The handle of a numba structure; its fields are read by compiled code only."""


class View(types.Type):
    """A pointer to the fields of a structure, without a reference to it. Each compiled class has a subclass."""

    def __init__(self, struct: Any):
        self.struct = struct
        super().__init__(f"{type(self).__name__}({struct.name})")


def compiled(cls: type[_T]) -> type[_T]:
    """Declares that numba can compile the methods of this class; returns it unchanged.

    What numba cannot compile is an error of numba's, when the class is first used in a compiled run.
    """
    digest = fingerprint(cls)

    def __init__(self: Any, fields: Any) -> None:
        types.StructRef.__init__(self, fields)
        self.name += f"@{digest}"

    struct = _declare(cls, "Struct", types.StructRef, {"__init__": __init__})
    structref.register(struct)
    structref.define_boxing(struct, Native)
    view = _declare(cls, "View", View, {})
    register_model(view)(models.OpaqueModel)
    methods = {n: f for base in reversed(cls.__mro__) for n, f in vars(base).items() if inspect.isfunction(f)}
    for method, function in methods.items():
        if not method.startswith("__"):
            overload_method(view, method, strict=False, jit_options=_METHOD)(_always(function))
    _STRUCTS[cls] = struct
    _VIEWS[struct] = view
    return cls


def _declare(cls: type, suffix: str, base: type, namespace: dict[str, Any]) -> type:
    """A type of numba's, in the module of the class: cached signatures are unpickled by name."""
    name = cls.__name__ + suffix
    names = {"__module__": cls.__module__, "__qualname__": name, "__reduce__": _reduce}
    made = type(name, (base,), names | namespace)
    setattr(sys.modules[cls.__module__], name, made)
    return made


def _reduce(self: Any) -> Any:
    return _revive, (type(self).__module__, serialize.dumps(types.Type.__reduce__(self)))


def _revive(module: str, pickled: bytes) -> Any:
    if module not in sys.modules:
        return Unread(module, pickled)
    try:
        revive, arguments = pickle.loads(pickled)
    except AttributeError:
        return Unread(module, pickled)
    return revive(*arguments)


class Unread(types.Type):
    """A type in the index of numba's cache whose class was not imported, or is no more: nothing can ask for it here."""

    def __init__(self, module: str, pickled: bytes):
        self.arguments = module, pickled
        super().__init__(f"unread {module} {hashlib.sha256(pickled).hexdigest()}")

    def __reduce__(self) -> Any:
        return _revive, self.arguments


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
    kind: type = type(instance)
    values = tuple(native(value) if is_compiled(type(value)) else value for value in vars(instance).values())
    try:
        fields = tuple((name, _kind(value)) for name, value in zip(vars(instance), values, strict=True))
    except ValueError as error:
        raise ValueError(f"{kind.__qualname__} cannot be compiled: {error}") from None
    return _build(_struct(kind, fields), values)


def _kind(value: Any) -> Any:
    """The type of a value for numba, which makes that of an array anew each time."""
    if type(value) is np.ndarray and value.flags.carray:
        return _array_kind(value.dtype, value.ndim)
    return numba.typeof(value)


@cache
def _array_kind(dtype: np.dtype[Any], ndim: int) -> Any:
    return numba.typeof(np.empty((1,) * ndim, dtype))


@cache
def _struct(cls: type, fields: tuple[tuple[str, Any], ...]) -> Any:
    return _STRUCTS[cls](list(fields))


def _fill(struct: Any, values: Any) -> None:
    """Stands for the assignments that `_overload_fill` writes for each type of structure."""
    raise NotImplementedError


@overload(_fill, strict=False)
def _overload_fill(struct: Any, values: Any) -> Any:
    lines = [f"    struct.{name} = values[{i}]" for i, name in enumerate(struct.field_dict)]
    namespace: dict[str, Any] = {}
    exec("\n".join(["def fill(struct, values):", *lines, "    return"]), namespace)
    return namespace["fill"]


@numba.njit(cache=True)
def _build(kind: Any, values: Any) -> Any:
    struct = structref.new(kind)
    _fill(struct, values)
    return struct


def view(instance: Any) -> Any:
    """What compiled code reads an instance through; in plain Python the instance itself."""
    return instance


@overload(view, strict=False)
def _overload_view(instance: Any) -> Any:
    if type(instance) in _VIEWS:
        return lambda instance: _to_view(instance)
    return (lambda instance: instance) if isinstance(instance, View) else None


@intrinsic
def _to_view(typing: Any, struct: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        handle = cgutils.create_struct_proxy(struct)(context, builder, value=arguments[0])
        return context.nrt.meminfo_data(builder, handle.meminfo)

    return _VIEWS[type(struct)](struct)(struct), generate


@infer_getattr
class _ViewAttribute(AttributeTemplate):
    key = View

    def generic_resolve(self, kind: View, name: str) -> Any:
        field = kind.struct.field_dict.get(name)
        return _VIEWS[type(field)](field) if type(field) in _VIEWS else field


def _fields(context: Any, builder: Any, kind: View, pointer: Any) -> Any:
    payload = kind.struct.get_data_type()
    place = context.data_model_manager[payload].get_value_type().as_pointer()
    return cgutils.create_struct_proxy(payload)(context, builder, ref=builder.bitcast(pointer, place))


@lower_getattr_generic(View)
def _get_field(context: Any, builder: Any, kind: View, pointer: Any, name: str) -> Any:
    value, field = getattr(_fields(context, builder, kind, pointer), name), kind.struct.field_dict[name]
    if type(field) in _VIEWS:
        handle = cgutils.create_struct_proxy(field)(context, builder, value=value)
        return context.nrt.meminfo_data(builder, handle.meminfo)
    if isinstance(field, types.Array):
        # Without its owner an array has no reference to count.
        array = cgutils.create_struct_proxy(field)(context, builder, value=value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        return array._getvalue()
    return value


@lower_setattr_generic(View)
def _set_field(context: Any, builder: Any, signature: Any, arguments: Any, name: str) -> None:
    kind, given = signature.args
    field = kind.struct.field_dict[name]
    if not isinstance(field, types.Number | types.Boolean):
        raise TypeError(f"compiled methods set numbers only, and {name} is {field}")
    fields = _fields(context, builder, kind, arguments[0])
    setattr(fields, name, context.cast(builder, arguments[1], given, field))
