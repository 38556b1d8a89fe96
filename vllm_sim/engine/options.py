"""The options of `--additional-config '{"vllm_sim": {...}}'`."""

from dataclasses import dataclass, field, fields
from typing import Any

KEY = "vllm_sim"
_ALLOWED = {"on_miss": ("error", "synthesize"), "on_inexact": ("error", "warn")}


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulator behaves, and what evicts on any platform."""

    on_miss: str = "error"
    """A prompt that is not in the trace: `error` refuses it, `synthesize` answers with deterministic tokens."""
    on_inexact: str = "error"
    """A recorded response that vLLM's detokeniser does not give back as it was: `error` ends the start, `warn` logs."""
    eviction: str = "lru"
    """The policy that evicts cached blocks: a registered name but `opt`, or `module:Class`; `lru` is vLLM's own."""
    eviction_params: dict[str, Any] = field(default_factory=dict)
    """The policy's parameters."""


def parse_options(additional_config: Any) -> Options:
    """Reads the options out of a VllmConfig's additional_config.

    Raises:
        ValueError: an unknown option or value; names it and what is allowed.
    """
    values = additional_config.get(KEY, {}) if isinstance(additional_config, dict) else {}
    if not isinstance(values, dict):
        raise ValueError(f'additional_config["{KEY}"] is {values!r}; allowed: an object')
    known = [known.name for known in fields(Options)]
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown option {name!r} of {KEY}; allowed: {', '.join(known)}")
        if name in _ALLOWED and value not in _ALLOWED[name]:
            raise ValueError(f"option {name} of {KEY} is {value!r}; allowed: {', '.join(_ALLOWED[name])}")
    options = Options(**values)
    _check_eviction(options)
    return options


def _check_eviction(options: Options) -> None:
    if not isinstance(options.eviction, str):
        raise ValueError(f"option eviction of {KEY} is {options.eviction!r}; allowed: the name of a policy")
    if not isinstance(options.eviction_params, dict):
        raise ValueError(f"option eviction_params of {KEY} is {options.eviction_params!r}; allowed: an object")
    if options.eviction != "lru" or options.eviction_params:
        from vllm_sim.eviction.policy import Room
        from vllm_sim.eviction.registry import make_policy

        # Refuses a wrong name or parameter, and `opt`, at the start.
        make_policy(options.eviction, Room(blocks=1, nodes=1), options.eviction_params)
