"""Every name of vLLM that is rebound, in one table.

A rebinding is the last resort, where no configuration field, hook or subclass serves. Whoever needs a row applies it
by its name. `apply()` may be called again; `revert()` undoes it. A target that is not there raises and names the
version of vLLM.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm_sim.engine.version import VersionError, installed_version

__all__ = ["TABLE", "Rebinding", "VersionError", "apply", "installed_version", "revert"]


@dataclass(frozen=True, slots=True)
class Rebinding:
    """One rebound name.

    Attributes:
        name: What it is applied by.
        target: module:attribute path.
        why: What needs it.
        upstream: Where the target is called.
        delete_when: What upstream would have to offer.
        wrap: Makes the new function out of the old one.
    """

    name: str
    target: str
    why: str
    upstream: str
    delete_when: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]]


def _admitting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def preprocess_add_request(self: Any, request: Any) -> Any:
        result = original(self, request)
        admit = getattr(self.model_executor, "admit", None)
        if admit is not None:
            admit(result[0])
        return result

    return preprocess_add_request


def _evicting(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get_scheduler_cls(self: Any) -> Any:
        from vllm_sim.engine.scheduler import with_policy

        return with_policy(original(self))

    return get_scheduler_cls


TABLE = (
    Rebinding(
        name="finish",
        target="vllm.v1.engine.core:EngineCore.preprocess_add_request",
        why="a recorded finish_reason 'length' ends the replay with 'length': request.max_tokens is lowered on arrival",
        upstream="vllm/v1/engine/core.py, process_input_sockets; core_client.py, InprocClient.add_request",
        delete_when="an executor can end a request by its length, or sees a request before it is scheduled",
        wrap=_admitting,
    ),
    Rebinding(
        name="eviction",
        target="vllm.config:SchedulerConfig.get_scheduler_cls",
        why="the scheduler that upstream would use gets a pool under a policy, and stays asynchronous where it was",
        upstream="vllm/v1/engine/core.py, EngineCore.__init__",
        delete_when="an option names a policy or a block pool, or --scheduler-cls keeps asynchronous scheduling",
        wrap=_evicting,
    ),
)

_originals: dict[str, Callable[..., Any]] = {}


def _resolve(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    try:
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        getattr(owner, name)
    except (ImportError, AttributeError) as error:
        version = installed_version()
        raise VersionError(f"vllm {version} has no {target}, which vllm_sim {__name__} rebinds: {error}") from None
    return owner, name


def apply(*names: str) -> None:
    """Rebinds what the named rows of the table name (all rows unless told), where it is not rebound yet.

    Raises:
        ValueError: there is no such row.
        VersionError: a target is not there.
    """
    known = [row.name for row in TABLE]
    for name in names:
        if name not in known:
            raise ValueError(f"no rebinding is named {name!r}; allowed: {', '.join(known)}")
    for row in TABLE:
        if row.name in (names or known) and row.target not in _originals:
            owner, name = _resolve(row.target)
            original = getattr(owner, name)
            setattr(owner, name, row.wrap(original))
            _originals[row.target] = original


def revert() -> None:
    """Binds every name of the table to what upstream had."""
    for target, original in list(_originals.items()):
        owner, name = _resolve(target)
        setattr(owner, name, original)
        del _originals[target]
