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
        end: The step in which it ends, or in which the executor must give more tokens than its answer has.
        is_known: Whether its last token is in its answer.
        origin: Its computed tokens in step s are `origin + s`.
    """

    __slots__ = ("end", "is_known", "number", "origin", "request", "step", "tokens")

    def __init__(self, request: Request, number: int, tokens: list[int], step: int, end: int):
        self.request, self.number, self.tokens, self.step, self.end = request, number, tokens, step, end
        self.origin = request.num_computed_tokens - step
        self.is_known = request.num_output_tokens + end - step < len(tokens)


def is_quiet(request: Request) -> bool:
    """Whether the next step, unless it ends the request, adds a token to it and nothing else."""
    return (
        request.status == RequestStatus.RUNNING
        and not request.is_prefill_chunk
        and request.num_output_tokens > 0
        and request.num_computed_tokens == request.num_tokens - 1
    )


def last_output(request: Request, tokens: list[int], max_model_len: int) -> int:
    """The place in its answer of the token that ends a request: upstream's check_stop.

    Args:
        request: Upstream's.
        tokens: Its answer.
        max_model_len: The scheduler's.
    """
    params = request.sampling_params
    assert params is not None
    last = min(request.max_tokens, max_model_len - request.num_prompt_tokens) - 1
    for end in (params.eos_token_id, *(params.stop_token_ids or ())):
        if end in tokens[:last]:
            last = tokens.index(end)
    return last
