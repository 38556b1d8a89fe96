"""The options of `--additional-config '{"vllm_sim": {...}}'`."""

from dataclasses import dataclass, field, fields
from typing import Any

from vllm_sim.engine.contact import configure
from vllm_sim.engine.failures import check_failures

KEY = "vllm_sim"
SCHEDULER = "vllm_sim.engine.scheduler.PolicyScheduler"
_ALLOWED = {
    "on_miss": ("error", "synthesize"),
    "on_inexact": ("error", "warn"),
    "latency_model": ("roofline", "table"),
}


@dataclass(frozen=True, slots=True)
class PluginOptions:
    """How the simulator behaves, and what evicts on any platform."""

    on_miss: str = "error"
    """A prompt that is not in the trace: `error` refuses it, `synthesize` answers with deterministic tokens."""
    on_inexact: str = "error"
    """A recorded response that vLLM's detokeniser does not give back as it was: `error` ends the start, `warn` logs."""
    eviction: str = "lru"
    """The policy that evicts cached blocks: a registered name but `belady`, or `module:Class`; `lru` is vLLM's own."""
    eviction_params: dict[str, Any] = field(default_factory=dict)
    """The policy's parameters."""
    pace: float = 0.0
    """Wall time of a step over that of the latency model: 1 keeps time, 2 takes twice as long, 0 answers at once."""
    latency_model: str = "roofline"
    """For pace: `roofline`, or `table` with latency_file."""
    device: str = "h100"
    """For pace and roofline."""
    latency_file: str | None = None
    """For pace and table: what `vllm-sim calibrate` wrote."""
    host_overhead_ms: float = 0.0
    """For pace and roofline: added to each step."""
    failures: dict[str, Any] = field(default_factory=dict)
    """Shares of requests that are rejected, aborted or delayed (failures.py)."""
    offload_gbps: float | None = None
    """Gigabytes a second that go to CPU memory, and as many that come from it; None: copies end at once."""
    scheduler_cls: str | None = None
    """The scheduler that the policy is put under, `module.Class`; None: the one that vLLM would use."""


def parse_options(additional_config: Any) -> PluginOptions:
    """Reads the options out of a VllmConfig's additional_config, and makes the policy once to see that it can be made.

    Raises:
        ValueError: an unknown option, value, policy or parameter, or the policy `belady`; names it and what is allowed.
    """
    options = _read_options(additional_config)
    if options.eviction != "lru" or options.eviction_params:
        from vllm_sim.eviction.policy import PolicyContext
        from vllm_sim.eviction.registry import make_policy

        make_policy(options.eviction, PolicyContext(blocks=1, nodes=1), options.eviction_params)
    return options


def _read_options(additional_config: Any) -> PluginOptions:
    """Reads the options, and looks at no policy."""
    values = additional_config.get(KEY, {}) if isinstance(additional_config, dict) else {}
    if not isinstance(values, dict):
        raise ValueError(f'additional_config["{KEY}"] is {values!r}; allowed: an object')
    known = [known.name for known in fields(PluginOptions)]
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown option {name!r} of {KEY}; allowed: {', '.join(known)}")
        if name in _ALLOWED and value not in _ALLOWED[name]:
            raise ValueError(f"option {name} of {KEY} is {value!r}; allowed: {', '.join(_ALLOWED[name])}")
    options = PluginOptions(**values)
    _check_types(options)
    return options


def name_scheduler(vllm_config: Any) -> None:
    """Makes a configuration's own field `scheduler_cls` name PolicyScheduler, where the options name a policy.

    Nothing is changed where they do not. A scheduler that is named already moves into the options. The policy itself is
    looked at by PolicyScheduler: policies import llvmlite, and where that is imported vLLM 0.32's CPU worker cannot
    start (Platform.register_triton_kernel_overrides looks through the attributes of all modules).

    Args:
        vllm_config: changed; it is complete, so that upstream has decided on asynchronous scheduling.

    Raises:
        ValueError: an option or its value is not allowed, or the scheduler has no name to import it by.
    """
    options = _read_options(vllm_config.additional_config)
    if options.eviction == "lru" and not options.eviction_params:
        return
    scheduler = vllm_config.scheduler_config
    named = _importable(scheduler.scheduler_cls)
    if named == SCHEDULER:
        return
    if named is not None:
        values = dict(vllm_config.additional_config[KEY], scheduler_cls=named)
        configure(vllm_config, additional_config={**vllm_config.additional_config, KEY: values})
    configure(scheduler, scheduler_cls=SCHEDULER)


def _importable(scheduler: str | type | None) -> str | None:
    """The name to import a scheduler class by, in the engine's process."""
    if scheduler is None or isinstance(scheduler, str):
        return scheduler
    if "<" in scheduler.__qualname__ or "." in scheduler.__qualname__:
        raise ValueError(f"eviction cannot serve the scheduler {scheduler.__qualname__}; allowed: a class of a module")
    return f"{scheduler.__module__}.{scheduler.__qualname__}"


def _check_types(options: PluginOptions) -> None:
    if not isinstance(options.eviction, str):
        raise ValueError(f"option eviction of {KEY} is {options.eviction!r}; allowed: the name of a policy")
    if not isinstance(options.eviction_params, dict):
        raise ValueError(f"option eviction_params of {KEY} is {options.eviction_params!r}; allowed: an object")
    for name in ("pace", "host_overhead_ms"):
        value = getattr(options, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < float("inf"):
            raise ValueError(f"option {name} of {KEY} is {value!r}; allowed: a number, 0 or more")
    for name in ("latency_model", "device"):
        if not isinstance(getattr(options, name), str):
            raise ValueError(f"option {name} of {KEY} is {getattr(options, name)!r}; allowed: a name")
    if not isinstance(options.latency_file, str | None):
        raise ValueError(f"option latency_file of {KEY} is {options.latency_file!r}; allowed: the name of a file")
    if not isinstance(options.failures, dict):
        raise ValueError(f"option failures of {KEY} is {options.failures!r}; allowed: an object")
    check_failures(options.failures)
    speed = options.offload_gbps
    if speed is not None and (isinstance(speed, bool) or not isinstance(speed, int | float) or not speed > 0):
        raise ValueError(f"option offload_gbps of {KEY} is {speed!r}; allowed: gigabytes a second, more than 0")
    if not isinstance(options.scheduler_cls, str | None) or options.scheduler_cls == SCHEDULER:
        raise ValueError(f"option scheduler_cls of {KEY} is {options.scheduler_cls!r}; allowed: another module.Class")
