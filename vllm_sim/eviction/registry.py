"""Policies by name: a line for each of this package's, and what installed packages register under the entry point group
`vllm_sim.eviction_policies`, as in their pyproject.toml:

    [project.entry-points."vllm_sim.eviction_policies"]
    mine = "my_package.my_module:MyPolicy"
"""

from typing import Any

from vllm_sim.eviction.names import ALIASES, LITERATURE, POLICIES, full_name
from vllm_sim.eviction.policy import Policy, PolicyContext
from vllm_sim.named_classes import installed_classes, load_class, make_instance


def registered() -> dict[str, str]:
    """The path `module:Class` of every policy that has a name; this package's names cannot be taken."""
    return installed_classes("vllm_sim.eviction_policies", ALIASES, POLICIES | LITERATURE)


def find_policy(name: str) -> type[Policy]:
    """The class of a policy.

    Args:
        name: a registered name, or `module:Class` of a user's own, which may lie in the working directory.

    Raises:
        ValueError: there is none.
    """
    name = full_name(name)
    path = POLICIES.get(name) or LITERATURE.get(name) or (name if ":" in name else registered().get(name, name))
    return load_class("policy", name, path, Policy, () if ":" in path else registered())


def make_policy(name: str, context: PolicyContext, params: dict[str, Any] | None = None) -> Policy:
    """A policy with its parameters.

    Raises:
        ValueError: no such policy, parameter or value.
    """
    cls = find_policy(name)
    policy = make_instance("policy", name, cls, context, params or {})
    if cls.in_order and cls.rank is not Policy.rank:
        raise ValueError(f"policy {name} is in_order and ranks blocks; allowed: one of the two")
    return policy
