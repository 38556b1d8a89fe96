"""The options of `--additional-config '{"vllm_sim": {...}}'`."""

from dataclasses import dataclass, fields
from typing import Any

KEY = "vllm_sim"
_ALLOWED = {"on_miss": ("error", "synthesize"), "on_inexact": ("error", "warn")}


@dataclass(frozen=True, slots=True)
class Options:
    """How the simulator behaves."""

    on_miss: str = "error"
    """A prompt that is not in the trace: `error` refuses it, `synthesize` answers with deterministic tokens."""
    on_inexact: str = "error"
    """A recorded response that vLLM's detokeniser does not give back as it was: `error` ends the start, `warn` logs."""


def parse_options(additional_config: Any) -> Options:
    """Reads the options out of a VllmConfig's additional_config.

    Raises:
        ValueError: an unknown option or value; names it and what is allowed.
    """
    values = additional_config.get(KEY, {}) if isinstance(additional_config, dict) else {}
    if not isinstance(values, dict):
        raise ValueError(f'additional_config["{KEY}"] is {values!r}; allowed: an object')
    known = [field.name for field in fields(Options)]
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown option {name!r} of {KEY}; allowed: {', '.join(known)}")
        if value not in _ALLOWED[name]:
            raise ValueError(f"option {name} of {KEY} is {value!r}; allowed: {', '.join(_ALLOWED[name])}")
    return Options(**values)
