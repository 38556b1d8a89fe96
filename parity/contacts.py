"""Where this package touches vLLM, probed in an environment with some version of it; prints JSON for parity.upgrade.

The rows of compat's table, which say what of vLLM is changed, are checked. A hook is what a class of ours has under the
name that its upstream class has too: its signature must take what upstream may call it with. What is a hook on one
version and none on another shows only by comparison, which parity.upgrade does with the pinned one. Requirements are
those that a build without kernels has.

usage: python -m parity.contacts
"""

import importlib
import importlib.metadata
import inspect
import json
import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from parity.signatures import refused

CLASSES = (
    ("vllm_sim.engine.platform:ReplayPlatform", "vllm.platforms.interface:Platform"),
    ("vllm_sim.engine.executor:ReplayExecutor", "vllm.v1.executor.abstract:Executor"),
    ("vllm_sim.engine.pool:PolicyQueue", "vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue"),
    ("vllm_sim.engine.pool:PolicyBlockPool", "vllm.v1.core.block_pool:BlockPool"),
    ("vllm_sim.engine.group_pool:GroupQueue", "vllm.v1.core.kv_cache_utils:FreeKVCacheBlockQueue"),
    ("vllm_sim.engine.group_pool:GroupBlockPool", "vllm.v1.core.block_pool:BlockPool"),
    ("vllm_sim.engine.pool:PolicyKVCacheManager", "vllm.v1.core.kv_cache_manager:KVCacheManager"),
)
"""Classes of ours, and of upstream, whose methods they override."""


class Hook(NamedTuple):
    """A name that a class of ours and its upstream class both have."""

    upstream: str
    """Upstream's signature; its kind where it is no function."""
    refused: str | None
    """A call that upstream's signature allows and ours does not take."""


def changes() -> dict[str, str | None]:
    """What is wrong with each row of compat's table, by the row's target; None where vLLM has what it needs."""
    from vllm_sim.engine import compat

    found: dict[str, str | None] = {}
    for row in compat.TABLE:
        try:
            row.check()
            found[row.target] = None
        except compat.VersionError as error:
            found[row.target] = str(error)
    return found


def hooks(ours: type, upstream: type) -> dict[str, Hook]:
    """The hooks of a class of ours, by name, whatever class between the two defines them."""
    own = {name: None for base in ours.__mro__ if base not in upstream.__mro__ for name in vars(base)}
    found = {}
    for name in own:
        if name.startswith("__") or name == "_abc_impl" or not hasattr(upstream, name):
            continue
        theirs = getattr(upstream, name)
        if inspect.isroutine(theirs):
            found[name] = Hook(signature_of(theirs), refused(getattr(ours, name), theirs))
        else:
            found[name] = Hook(type(theirs).__name__, None)
    return found


def signature_of(function: Any) -> str:
    """A signature without its types, which change more often than calls do."""
    signature = inspect.signature(function)
    bare = [one.replace(annotation=inspect.Parameter.empty) for one in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def public_names(upstream: type) -> list[str]:
    """What a class offers to a subclass."""
    return sorted(name for name in dir(upstream) if not name.startswith("_"))


def unmet(lines: Iterable[str]) -> list[str]:
    """Requirements that this environment does not meet, and what it has."""
    from packaging.requirements import Requirement

    found = []
    for line in lines:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate():
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{needed.name}{needed.specifier} is needed, and is not installed")
            continue
        if not needed.specifier.contains(version, prereleases=True):
            found.append(f"{needed.name}{needed.specifier} is needed, {version} is installed")
    return found


def _load(path: str) -> type:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def probe() -> dict[str, Any]:
    """All of it, as parity.upgrade reads it."""
    classes = {ours: (_load(ours), _load(upstream)) for ours, upstream in CLASSES}
    return {
        "vllm": importlib.metadata.version("vllm"),
        "torch": importlib.metadata.version("torch"),
        "unmet": unmet(importlib.metadata.requires("vllm") or ()),
        "changes": changes(),
        "hooks": {ours: hooks(*pair) for ours, pair in classes.items()},
        "public": {path: public_names(_load(path)) for _, path in CLASSES},
        "abstract": {ours: sorted(getattr(pair[0], "__abstractmethods__", ())) for ours, pair in classes.items()},
    }


if __name__ == "__main__":
    os.environ.setdefault("VLLM_SIM_TRACE_PATH", "named, so that the platform is ours")
    print(json.dumps(probe()))
