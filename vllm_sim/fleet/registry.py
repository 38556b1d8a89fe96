"""Routers by name: a line for each of this package's, and what installed packages register under the entry point group
`vllm_sim.routers`, as in their pyproject.toml:

    [project.entry-points."vllm_sim.routers"]
    mine = "my_package.my_module:MyRouter"
"""

from collections.abc import Sequence
from operator import index
from typing import Any

from vllm_sim.fleet.names import ROUTERS
from vllm_sim.fleet.router import Replica, RoutedRequest, Router, RouterContext
from vllm_sim.named_classes import installed_classes, load_class, make_instance, place_of


def registered_routers() -> dict[str, str]:
    """The path `module:Class` of every router that has a name; this package's names cannot be taken."""
    return installed_classes("vllm_sim.routers", (), ROUTERS)


def find_router(name: str) -> type[Router]:
    """The class of a router.

    Args:
        name: a registered name, or `module:Class` of a user's own, which may lie in the working directory.

    Raises:
        ValueError: there is none.
    """
    path = ROUTERS.get(name) or (name if ":" in name else registered_routers().get(name, name))
    return load_class("router", name, path, Router, () if ":" in path else registered_routers())


def make_router(name: str, context: RouterContext, params: dict[str, Any] | None = None) -> Router:
    """A router with its parameters.

    Raises:
        ValueError: no such router, parameter or value.
    """
    return make_instance("router", name, find_router(name), context, params or {})


def chosen_by(router: Router, request: RoutedRequest, replicas: Sequence[Replica]) -> int:
    """The replica that a router chooses.

    Raises:
        ValueError: there is no such replica, or the router raises.
    """
    name = f"{type(router).__module__}:{type(router).__qualname__}"
    try:
        found = router.choose(request, replicas)
        chosen = index(found)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}{place_of(error)}"
        raise ValueError(f"router {name} chose no replica for row {request.row}: {reason}") from error
    if not 0 <= chosen < len(replicas):
        raise ValueError(
            f"router {name} chose replica {found!r} for row {request.row}; allowed: 0 to {len(replicas) - 1}"
        )
    return chosen
