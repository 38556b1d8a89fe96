"""Steps of a real vLLM on average, from its own metrics: GET /metrics, read again and again while it is under load.

Between two readings vLLM's counters say how many steps gave tokens (count of `vllm:iteration_tokens_total`), how many
first tokens (count of `vllm:time_to_first_token_seconds`) and tokens there were, and how many prompt tokens were
computed for them; the mean of `vllm:inter_token_latency_seconds` is how long a step took for the requests that
decoded in it (vLLM 0.32, v1/metrics/loggers.py and stats.py, read). A table is linear in what a step computes, so the
averages of a window lie on the plane of its steps.

What metrics cannot show: a prompt that was computed in several steps counts in the last one; steps with many decoding
requests weigh more; a window without a decoding request has no time. So load the server with several rates in turn: the
windows must differ for the four terms to be told apart. The counters of all engines at one address are added.
"""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from vllm_sim.replay.bench_steps import TimedStep

_FEWEST_STEPS = 5
"""Of a window; with fewer, tokens of a step that straddles its edge count too much."""


class Counters(NamedTuple):
    """Sums of a reading, over all engines; the fields' order is that of SAMPLES."""

    steps: float
    firsts: float
    generated: float
    prompt: float
    cached: float
    gaps: float
    gap_s: float


SAMPLES = (
    "vllm:iteration_tokens_total_count",
    "vllm:time_to_first_token_seconds_count",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:inter_token_latency_seconds_count",
    "vllm:inter_token_latency_seconds_sum",
)


def counters(text: str, source: str) -> Counters:
    """What a reading says.

    Args:
        text: in Prometheus's text format.
        source: where it comes from, for errors.

    Raises:
        ValueError: it lacks a metric of SAMPLES, or is in another format.
    """
    from prometheus_client.parser import text_string_to_metric_families

    sums = dict.fromkeys(SAMPLES, 0.0)
    found = set()
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in sums:
                    sums[sample.name] += sample.value
                    found.add(sample.name)
    except ValueError as error:
        raise ValueError(f"{source} is not in Prometheus's text format: {error}") from None
    if missing := [name for name in SAMPLES if name not in found]:
        raise ValueError(f"{source} has no {', '.join(missing)}; allowed: GET /metrics of a vLLM 0.32 or 0.33")
    return Counters(*sums.values())


def window(before: Counters, after: Counters) -> TimedStep | None:
    """The mean step between two readings; None where too few steps, or none that decoded, came between them."""
    new = Counters(*(late - early for early, late in zip(before, after, strict=True)))
    if new.steps < _FEWEST_STEPS or new.gaps <= 0:
        return None
    computed = max(0.0, new.prompt - new.cached)
    return TimedStep(
        new.firsts / new.steps,
        computed / new.steps,
        (new.generated - new.firsts) / new.steps,
        1000 * new.gap_s / new.gaps,
    )


def metrics_steps(
    url: str, seconds: float, every_s: float, on_reading: Callable[[int, int], None]
) -> Iterator[TimedStep]:
    """The mean steps of the windows between readings.

    Args:
        url: of the metrics, http://HOST:PORT/metrics.
        seconds: how long it is read.
        every_s: seconds between two readings.
        on_reading: Called with the numbers of done and of all readings.

    Raises:
        ValueError: the address does not answer with vLLM's metrics.
    """
    import httpx

    total = 1 + round(seconds / every_s)
    readings = []
    begun = time.monotonic()
    with httpx.Client(timeout=30) as client:
        for done in range(total):
            time.sleep(max(0.0, begun + done * every_s - time.monotonic()))
            try:
                answer = client.get(url).raise_for_status()
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise ValueError(f"{url} cannot be read: {error}") from None
            readings.append(counters(answer.text, url))
            on_reading(done + 1, total)
    yield from filter(None, (window(before, after) for before, after in pairwise(readings)))
