"""Every name of vLLM that is rebound, in one table, and the check of vLLM's version.

A rebinding is the last resort, where no configuration field, hook or subclass serves. `apply()` may be called again;
`revert()` undoes it. A target that is not there raises and names the version of vLLM.
"""

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OLDEST = (0, 32)


@dataclass(frozen=True, slots=True)
class Rebinding:
    """One rebound name.

    Attributes:
        target: module:attribute path.
        why: What needs it.
        upstream: Where the target is called.
        delete_when: What upstream would have to offer.
        wrap: Makes the new function out of the old one.
    """

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


TABLE = (
    Rebinding(
        target="vllm.v1.engine.core:EngineCore.preprocess_add_request",
        why="a recorded finish_reason 'length' ends the replay with 'length': request.max_tokens is lowered on arrival",
        upstream="vllm/v1/engine/core.py, process_input_sockets; core_client.py, InprocClient.add_request",
        delete_when="an executor can end a request by its length, or sees a request before it is scheduled",
        wrap=_admitting,
    ),
)

_originals: dict[str, Callable[..., Any]] = {}


def installed_version() -> str:
    """vLLM's version.

    Raises:
        RuntimeError: vLLM is not installed, or is older than OLDEST.
    """
    oldest = ".".join(map(str, OLDEST))
    try:
        version = importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        raise RuntimeError(f"vllm is not installed; vllm_sim needs vllm {oldest} or newer") from None
    numbers = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        raise RuntimeError(f"vllm {version} is installed; vllm_sim needs vllm {oldest} or newer")
    return version


def _resolve(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    try:
        owner = functools.reduce(getattr, owners, importlib.import_module(module))
        getattr(owner, name)
    except (ImportError, AttributeError) as error:
        version = installed_version()
        raise RuntimeError(f"vllm {version} has no {target}, which vllm_sim {__name__} rebinds: {error}") from None
    return owner, name


def apply() -> None:
    """Rebinds every name of the table that is not rebound yet."""
    for row in TABLE:
        if row.target not in _originals:
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
