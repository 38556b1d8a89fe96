"""Policies by name: a line for each of this package's, and what installed packages register under the entry point group
`vllm_sim.eviction_policies`, as in their pyproject.toml:

    [project.entry-points."vllm_sim.eviction_policies"]
    mine = "my_package.my_module:MyPolicy"
"""

import importlib
import importlib.metadata
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any

from vllm_sim.eviction.names import ALIASES, LITERATURE, POLICIES, full_name
from vllm_sim.eviction.policy import Policy, PolicyContext


def registered() -> dict[str, str]:
    """The path `module:Class` of every policy that has a name; this package's names cannot be taken."""
    installed = importlib.metadata.entry_points(group="vllm_sim.eviction_policies")
    return {point.name: point.value for point in installed if point.name not in ALIASES} | POLICIES | LITERATURE


def find_policy(name: str) -> type[Policy]:
    """The class of a policy.

    Args:
        name: a registered name, or `module:Class` of a user's own, which may lie in the working directory.

    Raises:
        ValueError: there is none.
    """
    name = full_name(name)
    path = POLICIES.get(name) or LITERATURE.get(name) or (name if ":" in name else registered().get(name, name))
    module, colon, cls = path.partition(":")
    if not colon:
        raise ValueError(f"policy is {name!r}; allowed: {', '.join(registered())}, or module:Class")
    if str(Path.cwd()) not in sys.path:  # an installed command does not look there
        sys.path.append(str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), cls)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"policy is {name!r}, which cannot be loaded: {error}{_place(error)}") from error
    if not (inspect.isclass(found) and issubclass(found, Policy)):
        raise ValueError(f"policy is {name!r}, which is not a subclass of vllm_sim.eviction.policy.Policy")
    return found


def make_policy(name: str, context: PolicyContext, params: dict[str, Any] | None = None) -> Policy:
    """A policy with its parameters.

    Raises:
        ValueError: no such policy, parameter or value.
    """
    cls, params = find_policy(name), params or {}
    signature = inspect.signature(cls)
    allowed = list(signature.parameters)[1:]  # the context comes first, whatever its name
    for key in params:
        if key not in allowed:
            raise ValueError(f"policy {name} has no parameter {key!r}; allowed: {', '.join(allowed) or 'none'}")
    try:
        signature.bind(context, **params)
        policy = cls(context, **params)
    except TypeError as error:
        raise ValueError(f"parameters of policy {name} are {params}: {error}{_place(error)}") from error
    if cls.in_order and cls.rank is not Policy.rank:
        raise ValueError(f"policy {name} is in_order and ranks blocks; allowed: one of the two")
    return policy


def _place(error: Exception) -> str:
    """Where in a policy's code an error was raised, for a message; nothing where none of it ran."""
    ours = (__file__, importlib.__file__, inspect.__file__)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename not in ours and not frame.filename.startswith("<frozen "):
            return f" ({frame.filename}, line {frame.lineno})"
    return ""
