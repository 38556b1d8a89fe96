"""How vllm_sim reads and changes what is vLLM's: only by these, and each looks first whether vLLM has it.

The kinds of contact that compat.py's table is made of, and the access to fields of vLLM's configuration. What is not
there raises a VersionError that names it and vLLM's version; nothing is guessed. No other module of this folder assigns
to an attribute of an upstream object (tests/engine/test_contacts.py).
"""

import functools
import importlib
import inspect
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from vllm_sim.vllm_version import VersionError, installed_version


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One place where upstream is changed.

    Attributes:
        name: What it is called by.
        target: module:attribute path.
        why: What needs it.
        upstream: Where upstream calls or reads the target.
        delete_when: What upstream would have to offer.
    """

    name: str
    target: str
    why: str
    upstream: str
    delete_when: str

    def check(self) -> None:
        """Raises VersionError where the installed vLLM does not have the target as this contact needs it."""
        _resolve(self.target)

    def _owner(self, instance: object) -> str:
        """The attribute's name, for an instance of the class that the target names."""
        owner, name = _split(self.target)
        if not isinstance(instance, owner):
            raise _missing(self.target, f"this one is a {type(instance).__qualname__}")
        return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebinding(Contact):
    """A name that is bound anew in the whole process.

    Attributes:
        wrap: Makes what the name is bound to, out of what it was bound to.
    """

    wrap: Callable[[Any], Any]

    def apply(self) -> None:
        """Rebinds the name, where it is not rebound yet."""
        if self.target in _originals:
            return
        owner, name = _resolve(self.target)
        original = getattr(owner, name)
        setattr(owner, name, self.wrap(original))
        _originals[self.target] = original

    def revert(self) -> None:
        """Binds the name to what upstream had."""
        if self.target in _originals:
            owner, name = _resolve(self.target)
            setattr(owner, name, _originals.pop(self.target))


_originals: dict[str, Any] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Override(Contact):
    """A method of one object that is replaced by a function; that calls the method it gets.

    Attributes:
        parameters: The method's first parameters, which the function names.
    """

    parameters: tuple[str, ...]

    def check(self) -> None:
        owner, name = _resolve(self.target)
        found = tuple(inspect.signature(getattr(owner, name)).parameters)[1:]
        if found[: len(self.parameters)] != self.parameters:
            raise _missing(self.target, f"with the parameters {', '.join(self.parameters)}: it has {', '.join(found)}")

    def put(self, instance: object, function: Callable[..., Any]) -> None:
        """Puts the function in the method's place."""
        self.check()
        setattr(instance, self._owner(instance), function)


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion(Contact):
    """An object whose class becomes a subclass; the target is the class that it has."""

    def put(self, instance: object, subclass: type) -> None:
        """Gives the object the subclass."""
        owner, name = _resolve(self.target)
        upstream = getattr(owner, name)
        if type(instance) is not upstream or not issubclass(subclass, upstream):
            raise _missing(self.target, f"{type(instance).__qualname__} cannot become {subclass.__qualname__}")
        instance.__class__ = subclass
        # Python finds the attributes of an object whose class has changed by the slow way, until it has a dictionary
        # of its own: 9 % of the time of a block in upstream's pool.
        instance.__dict__ = dict(vars(instance))


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(Contact):
    """An attribute of one object that is set; the target's class sets it in its constructor.

    Attributes:
        type: The attribute's type.
    """

    type: type

    def check(self) -> None:
        owner, name = _split(self.target)
        if name not in owner.__init__.__code__.co_names:
            raise _missing(self.target, "its constructor does not set it")

    def put(self, instance: object, value: Any) -> None:
        """Sets the attribute."""
        name = self._owner(instance)
        found = getattr(instance, name, None)
        if type(found) is not self.type or type(value) is not self.type:
            raise _missing(self.target, f"of type {self.type.__qualname__}: {found!r} cannot become {value!r}")
        setattr(instance, name, value)

    def writer(self) -> Callable[[Any, Any], None]:
        """What sets the attribute of an object of the target's class; it does not look at the object again."""
        self.check()
        name = _split(self.target)[1]
        return lambda instance, value: setattr(instance, name, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Contact):
    """A dictionary of upstream's that gets an entry."""

    def put(self, key: str, value: Any) -> None:
        """Adds the entry where there is none."""
        owner, name = _resolve(self.target)
        found = getattr(owner, name)
        if not isinstance(found, MutableMapping):
            raise _missing(self.target, f"as a dictionary: it is a {type(found).__qualname__}")
        found.setdefault(key, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members(Contact):
    """A set of one object that gets a member; the target's class makes it in its constructor.

    vLLM 0.33 has a dict there, which may say more of a member; nothing is said.
    """

    def check(self) -> None:
        owner, name = _split(self.target)
        if name not in owner.__init__.__code__.co_names:
            raise _missing(self.target, "its constructor does not set it")

    def put(self, instance: object, member: str) -> None:
        """Adds a member."""
        found = getattr(instance, self._owner(instance), None)
        if isinstance(found, set):
            found.add(member)
        elif isinstance(found, dict):
            found[member] = None
        else:
            raise _missing(self.target, f"as a set or dict: it is {found!r}")


class Absent(NamedTuple):
    """A field that some of the supported versions of vLLM do not have."""

    field: str
    """Class.field"""
    before: tuple[int, ...] | None = None
    """First version that has it."""
    since: tuple[int, ...] | None = None
    """First version that has it no longer."""


ABSENT: tuple[Absent, ...] = ()
"""All fields that are read here are in 0.32 and in 0.33."""


def field(config: object, name: str) -> Any:
    """The value of a field of one of upstream's classes; None where ABSENT says that this version has none.

    Raises:
        VersionError: there is no such field.
    """
    try:
        return getattr(config, name)
    except AttributeError as error:
        version = installed_version()
        numbers = tuple(int(part) for part in version.split("+")[0].split(".") if part.isdigit())
        path = f"{type(config).__qualname__}.{name}"
        for row in ABSENT:
            is_early = row.before is not None and numbers < row.before
            if row.field == path and (is_early or (row.since is not None and numbers >= row.since)):
                return None
        raise VersionError(f"vllm {version} has no {path}, which vllm_sim reads: {error}") from None


def configure(config: object, **values: Any) -> None:
    """Sets fields of a configuration.

    Raises:
        VersionError: there is no such field.
    """
    for name, value in values.items():
        field(config, name)
        setattr(config, name, value)


def first_of(*targets: str) -> Any:
    """What the first of these module:attribute paths names that this vLLM has: upstream moves names between versions.

    Raises:
        VersionError: it has none of them.
    """
    for target in targets:
        try:
            owner, name = _resolve(target)
        except VersionError:
            continue
        return getattr(owner, name)
    raise _missing(" or ".join(targets), "neither is there")


def _split(target: str) -> tuple[Any, str]:
    """What has a target, and the target's name there."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    try:
        return functools.reduce(getattr, owners, importlib.import_module(module)), name
    except (ImportError, AttributeError) as error:
        raise _missing(target, str(error)) from None


def _resolve(target: str) -> tuple[Any, str]:
    owner, name = _split(target)
    if not hasattr(owner, name):
        raise _missing(target, f"{owner!r} has no attribute {name!r}")
    return owner, name


def _missing(target: str, reason: str) -> VersionError:
    return VersionError(f"vllm {installed_version()} has no {target} that vllm_sim can use: {reason}")
