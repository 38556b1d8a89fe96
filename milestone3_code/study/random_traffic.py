"""Random traffic: what no mix was made like, to look for points at which a policy is far from LRU, above or below.

A seed draws one to four streams; in two of five traffics a stream begins or ends somewhere in the middle. Blocks are
numbers, times order the requests and are forgotten:

    chats      sessions with one of some system prompts, turns that grow, log-normal waits that can be nearly constant
    documents  prompts that begin with one of some texts, popular ones more often
    loop       the same prompts in turn, at a constant rate: LRU keeps the wrong ones if the cache is smaller
    batches    the same prompts two or three times, each time in one go
    one-off    prompts that never come again

Sizes, counts and rates are drawn over one or two orders of magnitude.
"""

import hashlib
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from milestone3_code.study.study import Point, Study
from vllm_sim.eviction.chains import Array, Chains, Requests, link
from vllm_sim.eviction.registry import POLICIES
from vllm_sim.eviction.simulate import simulate
from vllm_sim.replay.rows import SCHEMA, Row

END_S = 10_000.0
MOST_LOOPS = 3000
DIGITS = 5
"""Of rates and gains, which are shown in points with two."""
VARIANTS: dict[str, tuple[str, dict[str, float]]] = {
    # Without categories `workload_aware` is LRU.
    **{name: (name, {}) for name in POLICIES if name not in ("lru", "workload_aware", "belady")},
    "hybrid without guard": ("hybrid", {"slack": 1e9}),
    "hybrid without both ends": ("hybrid", {"ends": 0}),
}
Prompt = tuple[float, Array]
"""A time, and the blocks."""


class _Source:
    """A generator, and blocks that were not there before."""

    def __init__(self, seed: int):
        self.draw = np.random.default_rng(seed)
        self.used = 0

    def blocks(self, count: int) -> Array:
        self.used += count
        return np.arange(self.used - count, self.used)

    def count(self, low: int, high: int) -> int:
        return int(self.draw.integers(low, high))

    def texts(self, count: int, low: int, high: int) -> list[Array]:
        return [self.blocks(self.count(low, high)) for _ in range(count)]

    def few(self, mean: float) -> Array:
        return self.blocks(1 + int(self.draw.poisson(mean)))


def _chats(source: _Source, begin: float, end: float) -> Iterator[Prompt]:
    draw = source.draw
    systems = source.texts(source.count(1, 6), 1, 60)
    wait_s = np.exp(draw.uniform(np.log(5), np.log(2000)))
    spread, turns, growth = draw.choice([0.1, 0.5, 1.0, 2.0]), draw.uniform(1.2, 15), draw.uniform(1, 40)
    for _ in range(source.count(20, 400)):
        time, prompt = draw.uniform(begin, end), systems[source.count(0, len(systems))]
        for _ in range(1 + draw.geometric(1 / turns)):
            prompt = np.concatenate([prompt, source.few(growth)])
            yield time, prompt
            time += draw.lognormal(np.log(wait_s), spread)


def _documents(source: _Source, begin: float, end: float) -> Iterator[Prompt]:
    texts = source.texts(source.count(5, 100), 10, 200)
    weights = 1 / np.arange(1, len(texts) + 1) ** source.draw.uniform(0, 1.5)
    for _ in range(source.count(100, 2000)):
        text = texts[source.draw.choice(len(texts), p=weights / weights.sum())]
        yield source.draw.uniform(begin, end), np.concatenate([text, source.few(2)])


def _loop(source: _Source, begin: float, end: float) -> Iterator[Prompt]:
    size = source.count(5, 100)
    texts = [source.blocks(size) for _ in range(source.count(5, 200))]
    step_s = 1 / source.draw.uniform(0.01, 0.2)
    for turn in range(min(MOST_LOOPS, int((end - begin) / step_s))):
        yield begin + turn * step_s, np.concatenate([texts[turn % len(texts)], source.few(1)])


def _batches(source: _Source, begin: float, end: float) -> Iterator[Prompt]:
    texts = source.texts(source.count(50, 1500), 2, 60)
    for _ in range(source.count(2, 4)):
        start, step_s = source.draw.uniform(begin, end), source.draw.uniform(0.1, 10)
        yield from ((start + place * step_s, text) for place, text in enumerate(texts))


def _one_off(source: _Source, begin: float, end: float) -> Iterator[Prompt]:
    for _ in range(source.count(50, 1500)):
        yield source.draw.uniform(begin, end), source.blocks(source.count(5, 80))


STREAMS: tuple[Callable[[_Source, float, float], Iterator[Prompt]], ...] = (
    *(_chats, _documents, _loop, _batches, _one_off),
)


def make_traffic(seed: int, block_size: int) -> Requests:
    """The requests of a seed; without outputs."""
    source = _Source(seed)
    prompts: list[Prompt] = []
    streams, has_phases = source.count(1, 5), source.draw.random() < 0.4
    for _ in range(streams):
        begin, end = 0.0, END_S
        if has_phases:
            middle = source.draw.uniform(0, END_S)
            begin, end = (0.0, middle) if source.draw.random() < 0.5 else (middle, END_S)
        prompts += STREAMS[source.count(0, len(STREAMS))](source, begin, end)
    prompts.sort(key=lambda prompt: prompt[0])
    lengths = np.array([blocks.size for _, blocks in prompts], np.int64)
    zeros: npt.NDArray[np.int64] = np.zeros(lengths.size, np.int64)
    begins = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = np.concatenate([blocks for _, blocks in prompts]).astype(np.int64)
    return Requests(ids, begins, lengths * block_size, zeros, zeros, zeros)


@lru_cache(maxsize=1)
def _traffic(seed: int, block_size: int) -> tuple[Requests, Chains]:
    requests = make_traffic(seed, block_size)
    return requests, link(requests, block_size)


def random_row(study: Study, point: Point) -> Row:
    """All policies on one traffic, at every capacity."""
    seed, size, capacities = point.mix_seed, point.block_size, point.detail.split()
    requests, chains = _traffic(seed, size)
    shares = [float(capacity.removesuffix("%")) / 100 for capacity in capacities]
    blocks = [max(int(share * chains.working_set), int(chains.need.max())) for share in shares]
    prompt = int(requests.prompt_tokens.sum())

    def rates(policy: str, params: dict[str, float]) -> list[float]:
        return [int(simulate(chains, policy, at, params).hit.sum()) * size / prompt for at in blocks]

    lru, best = rates("lru", {}), rates("belady", {})
    gains = {
        name: [round(rate - base, DIGITS) for rate, base in zip(rates(*variant), lru, strict=True)]
        for name, variant in VARIANTS.items()
    }
    return {
        "experiment": point.experiment,
        "mix": point.mix,
        "mix_seed": seed,
        "schema": SCHEMA,
        "trace": f"random traffic {seed}",
        "trace_sha256": hashlib.sha256(requests.ids.tobytes() + requests.begins.tobytes()).hexdigest(),
        "backend": "fast",
        "policy": "all",
        "block_size": size,
        "capacity_blocks": None,
        "capacities": capacities,
        "blocks": blocks,
        "requests": int(requests.prompt_tokens.size),
        "prompt_tokens": prompt,
        "working_set_blocks": chains.working_set,
        "lru_hit_rate": [round(rate, DIGITS) for rate in lru],
        "belady_hit_rate": [round(rate, DIGITS) for rate in best],
        "gains_over_lru": gains,
    }
