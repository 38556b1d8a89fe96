"""Hints that come with a request to a live vLLM: in its `vllm_xargs`, or in its `kv_hints`.

Faithful to vLLM 0.32 (entrypoints/openai/chat_completion/protocol.py, v1/request.py, v1/kv_hints, read): the API server
passes `vllm_xargs` on as `extra_args` of the sampling parameters; an orchestrator that drives the engine itself gives
an envelope of `kv_hints`. Where a value is out of range the request counts as one without hints, and the first time a
warning says so.
"""

from typing import Any

from vllm.logger import init_logger
from vllm.v1.request import Request

from vllm_sim.trace.hints import ACTION_TYPE, NO_HINTS, Hints, read_hints

logger = init_logger("vllm.vllm_sim.hints")


def hints_of_request(request: Request) -> Hints:
    """What the client of a request says; its `vllm_xargs` go before its `kv_hints`."""
    values: dict[str, Any] = {}
    if request.kv_hints is not None:
        for action in request.kv_hints.actions:
            if action.action_type == ACTION_TYPE:
                values |= action.payload
    if request.sampling_params is not None:
        values |= request.sampling_params.extra_args or {}
    try:
        return read_hints(values) if values else NO_HINTS
    except ValueError as error:
        logger.warning_once("vllm_sim passes over the hints of a request: %s", str(error))
        return NO_HINTS
