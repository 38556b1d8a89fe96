"""Requests that only decode: which ones do, and when they end.

Faithful to vLLM 0.32 (v1/request.py, v1/core/sched/utils.py check_stop, read). Not covered: repetition_detection, which
no request of a replay has.
"""

from vllm.v1.request import Request, RequestStatus


class Lane:
    """A quiet request.

    Attributes:
        request: Upstream's, as it was at the beginning of `step`.
        number: Ascends as the requests stand in `running`.
        tokens: Its answer.
        step: See `request`.
        end: The step in which it ends.
        rests: Whether it is not scheduled in that step: upstream knows that the token in flight ends it.
        origin: Its computed tokens in step s are `origin + s`.
    """

    __slots__ = ("end", "number", "origin", "request", "rests", "step", "tokens")

    def __init__(self, request: Request, number: int, tokens: list[int], step: int, end: int, rests: bool):
        self.request, self.number, self.tokens, self.step, self.end = request, number, tokens, step, end
        self.rests = rests
        self.origin = request.num_computed_tokens - step


def is_quiet(request: Request, in_flight: int) -> bool:
    """Whether the next step, unless it ends the request, adds a token to it and nothing else.

    Args:
        request: Upstream's, between two steps.
        in_flight: Tokens of it that are scheduled and have not come: 1 with asynchronous scheduling, else 0.
    """
    return (
        request.status == RequestStatus.RUNNING
        and not request.is_prefill_chunk
        and request.num_output_tokens > 0
        and request.num_output_placeholders == request.num_in_flight_tokens == in_flight
        and request.num_computed_tokens == request.num_tokens - 1 + in_flight
    )


def longest_output(request: Request, max_model_len: int) -> int:
    """The place of the token that ends a request by its length, whatever the tokens are."""
    return min(request.max_tokens, max_model_len - request.num_prompt_tokens) - 1


def last_output(request: Request, tokens: list[int], max_model_len: int) -> int:
    """The place in its answer of the token that ends a request: upstream's check_stop.

    Args:
        request: Upstream's.
        tokens: Its answer.
        max_model_len: The scheduler's.
    """
    params = request.sampling_params
    assert params is not None
    last = longest_output(request, max_model_len)
    for end in (params.eos_token_id, *(params.stop_token_ids or ())):
        if end in tokens[:last]:
            last = tokens.index(end)
    return last
