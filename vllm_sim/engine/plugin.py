"""What vLLM's entry points call, in every process. vLLM resolves its platform in here, so nothing of it is imported."""

import logging
import os

TRACE_VARIABLE = "VLLM_SIM_TRACE_PATH"


def platform() -> str | None:
    """Entry point of `vllm.platform_plugins`: our platform where a trace is named, else vLLM's own choice."""
    return "vllm_sim.engine.platform.ReplayPlatform" if os.environ.get(TRACE_VARIABLE) else None


def general() -> None:
    """Entry point of `vllm.general_plugins`, on every platform: the option `eviction` is heeded.

    See the row `eviction` of compat.py for what this touches where nothing is configured. On our platform classes of
    models may also import what is not installed (row `module`).
    """
    from vllm_sim.engine import compat

    if platform() is not None:
        from vllm_sim.engine.stand_ins import supply_torchvision

        supply_torchvision()
    try:
        compat.apply("eviction")
    except compat.VersionError as error:
        # A vLLM that is not configured to simulate anything must start all the same.
        logging.getLogger(__name__).warning("%s", error)
