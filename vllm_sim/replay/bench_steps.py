"""Steps of a real vLLM, as a client saw them: from what `vllm bench serve --save-result --save-detailed` writes.

The file has for each request when it was sent, its time to first token, and the gaps between its tokens (vLLM 0.32,
benchmarks/serve.py and lib/endpoint_request_func.py, read). Tokens of one step arrive together: arrivals that are
nearer to each other than half the median gap are one step, which ends with the first of them. It lasted from the end of
the step before it, if a request has tokens of both: else the engine may have been idle. Requests whose first token
arrives prefilled in it, the others decoded.

What a client cannot see: a prompt that was computed in several steps counts with all its tokens in the last one, and
tokens that were found cached count as computed. So bench with prompts that share nothing and are shorter than
max_num_batched_tokens. HTTP's jitter is in the times.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FIELDS = ("start_times", "ttfts", "itls", "input_lens")


class TimedStep(NamedTuple):
    """A step that a real vLLM computed, or the mean of several."""

    prefill_requests: float
    prefill_tokens: float
    decode_requests: float
    ms: float


class _Arrival(NamedTuple):
    s: float
    request: int
    is_first: bool


def bench_steps(path: Path) -> Iterator[TimedStep]:
    """The steps that the tokens of a benchmark show, in order.

    Raises:
        ValueError: the file is no detailed result of `vllm bench serve`.
    """
    found = _read(path)
    arrivals: list[_Arrival] = []
    for request, (start, ttft, itls) in enumerate(zip(*(found[name] for name in FIELDS[:3]), strict=True)):
        if not itls:  # it failed, or has one token
            continue
        times = start + ttft + np.concatenate([[0.0], np.cumsum(itls)])
        arrivals += [_Arrival(float(time), request, place == 0) for place, time in enumerate(times)]
    if not arrivals:
        return
    apart = float(np.median([gap for itls in found["itls"] for gap in itls])) / 2
    arrivals.sort()
    before: list[_Arrival] = []
    step: list[_Arrival] = []
    for arrival in arrivals:
        if step and arrival.s - step[0].s > apart:
            yield from _timed(before, step, found["input_lens"])
            before, step = step, []
        step.append(arrival)
    yield from _timed(before, step, found["input_lens"])


def _timed(before: list[_Arrival], step: list[_Arrival], input_lens: list[int]) -> Iterator[TimedStep]:
    """The step, if it follows the one before it at once."""
    if {one.request for one in before}.isdisjoint(one.request for one in step):
        return
    prefilled = [one.request for one in step if one.is_first]
    tokens = sum(input_lens[request] for request in prefilled)
    yield TimedStep(len(prefilled), tokens, len(step) - len(prefilled), 1000 * (step[0].s - before[0].s))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict) or any(not isinstance(found.get(name), list) for name in FIELDS):
        raise ValueError(
            f"{path} has no {', '.join(FIELDS)}; allowed: what `vllm bench serve --save-result --save-detailed` writes"
        )
    if len({len(found[name]) for name in FIELDS}) > 1:
        raise ValueError(f"{path}: {', '.join(FIELDS)} differ in length; allowed: one of each for every request")
    return found
