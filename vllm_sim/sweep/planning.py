"""The smallest deployment that meets a service level: replicas, then KV cache, by runs of the engine in virtual time.

For each load (speedup of the trace), block size, policy and router:

1. How many blocks a device holds: vLLM's own start of an engine (engine/model_cache.py).
2. Replicas: with all of that memory, 1, 2, 4 ... until the level is met, then bisection. They are a fleet on one clock
   after the router (engine/backends/fleet.py); the level is for all requests, wherever they were served.
3. Cache: bisection of the capacity until the smallest that meets the level is known to PRECISION. Where LRU's curve of
   the `fast` backend has all its hits in one cache well below the device's capacity, the search begins there. CPU
   memory, where it is given, is the same for each replica of every deployment.

Assumed: more replicas or more blocks never make a level fail that was met. Every run is a row of OUT/runs.jsonl, which
the runner of sweeps keeps, so a plan that is made again computes nothing again.
"""

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from vllm_sim.fleet.registry import find_router
from vllm_sim.models.layers import keeps_less
from vllm_sim.replay.cache_facts import cache_facts
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.config_checks import ALL, TIER_DEFAULTS
from vllm_sim.replay.latency import device_bytes
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.grid import sweep
from vllm_sim.sweep.runs import GridRun, curve_summary, load
from vllm_sim.sweep.service_level import Bound, failures, worst

PRECISION = 1.05
"""Between a capacity that meets the level and one that does not."""
MOST_REPLICAS = 8
ROUTER = "session"
"""Before several replicas, unless others are named."""
_NEAR = 0.001
"""A hit rate that is so near another counts as the same, where the search begins."""


class Wanted(NamedTuple):
    """What a plan is made for."""

    trace: Path
    config: RunConfig
    """Model, device and all that the runs have in common."""
    level: tuple[Bound, ...]
    loads: tuple[float, ...] = (1.0,)
    policies: tuple[str, ...] = ("lru",)
    routers: tuple[str, ...] = (ROUTER,)
    block_sizes: tuple[int, ...] = (16,)
    most_replicas: int = MOST_REPLICAS
    memory: dict[str, Any] | None = None
    """What `engine.model_cache.Memory` has besides the total."""


class DeviceCache(NamedTuple):
    """What a device holds."""

    blocks: int
    least_blocks: int
    """That the longest request needs."""
    bytes_per_block: int
    tokens: int


class Probe(NamedTuple):
    """A deployment that was tried."""

    config: RunConfig
    """Its capacity is that of the whole fleet."""
    row: Row
    device: DeviceCache

    @property
    def replica_blocks(self) -> int:
        """The capacity of a replica."""
        blocks = self.config.replica_blocks
        assert blocks is not None  # a device has an end
        return blocks

    def misses(self, level: tuple[Bound, ...]) -> list[str]:
        """What does not meet the level."""
        return failures(level, self.row)

    def excess(self, level: tuple[Bound, ...]) -> float:
        """The largest of value / bound."""
        return worst(level, self.row)


class Planned(NamedTuple):
    """What was found for a load, a block size, a policy and a router."""

    probe: Probe
    """The smallest that meets the level; else the largest that was tried."""
    met: bool
    tried: list[Probe]
    alone: Row | None
    """Where the level was not met: a request at a time, nothing ever evicted."""


def plan(wanted: Wanted, out: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[Planned]:
    """Searches, for each load, block size, policy and router.

    Args:
        wanted: what for.
        out: folder for the rows of the runs.
        say: called with lines that say what happens.

    Raises:
        ValueError: the model does not fit the device, or a value does not go with another.
    """
    for router in wanted.routers:
        find_router(router)
    for load_ in wanted.loads:
        for size in wanted.block_sizes:
            device = _device_cache(wanted, size)
            for policy, router in product(wanted.policies, wanted.routers):
                config = replace(wanted.config, policy=policy, block_size=size, speedup=load_)
                yield _Search(wanted, config, router, device, out, say).run()


def _device_cache(wanted: Wanted, block_size: int) -> DeviceCache:
    config = wanted.config
    assert config.model is not None  # the engine needs one
    trace = load(wanted.trace, config.model).trace
    longest = int((trace.prompt_lengths + trace.response_lengths).max()) + 1
    memory = {"total": device_bytes(config.device)} | (wanted.memory or {})
    facts = cache_facts(config.model, memory, config.tensor_parallel, longest, {"block_size": block_size})
    assert facts.blocks is not None
    assert facts.kv_cache_size_tokens is not None
    least = -(-facts.longest_request_bytes // facts.bytes_per_block)
    return DeviceCache(facts.blocks, least, facts.bytes_per_block, facts.kv_cache_size_tokens)


class _Search:
    """The search for one load, block size, policy and router; `config` is of one replica."""

    def __init__(
        self, wanted: Wanted, config: RunConfig, router: str, device: DeviceCache, out: Path, say: Callable[[str], None]
    ):
        self.wanted, self.config, self.router = wanted, config, router
        self.device, self.out, self.say = device, out, say
        self.tried: list[Probe] = []

    def run(self) -> Planned:
        """The smallest number of replicas, then the smallest cache."""
        found = self._replicas()
        if found is None:
            return Planned(self.tried[-1], False, self.tried, self._alone())
        return Planned(self._capacity(found), True, self.tried, None)

    def _try(self, replicas: int, blocks: int) -> Probe:
        config = replace(self.config, capacity_blocks=blocks * replicas, replicas=replicas, router=self.router)
        (row,) = sweep([GridRun(self.wanted.trace, config)], self.out / "runs.jsonl", jobs=1)
        probe = Probe(config, row, self.device)
        self.tried.append(probe)
        verdict = "meets the level" if probe.excess(self.wanted.level) <= 1 else "does not"
        self.say(f"load {config.speedup:g}, {config.policy}: {replicas} replicas of {blocks:,} blocks: {verdict}")
        return probe

    def _meets(self, probe: Probe) -> bool:
        return not probe.misses(self.wanted.level)

    def _replicas(self) -> Probe | None:
        """With all the memory of each device; None where too many would be needed."""
        failed, replicas = 0, 1
        while not self._meets(probe := self._try(replicas, self.device.blocks)):
            failed = replicas
            if replicas == self.wanted.most_replicas:
                return None
            replicas = min(2 * replicas, self.wanted.most_replicas)
        while replicas - failed > 1:
            middle = (replicas + failed) // 2
            tried = self._try(middle, self.device.blocks)
            if self._meets(tried):
                replicas, probe = middle, tried
            else:
                failed = middle
        return probe

    def _capacity(self, best: Probe) -> Probe:
        """The smallest cache of a replica, from a deployment with all the memory."""
        low, high = self.device.least_blocks - 1, self.device.blocks
        replicas = best.config.replicas
        guess = self._enough(replicas)
        if guess < high:
            probe = self._try(replicas, guess)
            if self._meets(probe):
                best, high = probe, guess
            else:
                low = guess
        while high - low > 1 and high > low * PRECISION:
            middle = max(low + 1, int((max(low, 1) * high) ** 0.5))
            probe = self._try(replicas, middle)
            if self._meets(probe):
                best, high = probe, middle
            else:
                low = middle
        return best

    def _enough(self, replicas: int) -> int:
        """A replica's share of the cache in which LRU has all its hits, and room for the longest request; the whole
        device if that is unknown."""
        config = replace(self.config, backend="fast", policy="lru", policy_params={}, **TIER_DEFAULTS)
        config = replace(config, capacity_blocks=ALL)
        if config.model is None or keeps_less(config.model):
            return self.device.blocks
        curve = curve_summary(self.wanted.trace, config).curve
        assert curve is not msgspec.UNSET  # capacity all has one
        rates = curve.token_hit_rate
        within = [at for at in range(len(rates)) if curve.capacity_blocks[at] <= self.device.blocks * replicas]
        most = rates[within[-1]] if within else 0.0
        place = next((at for at in within if rates[at] >= most - _NEAR), 0)
        return min(self.device.blocks, curve.capacity_blocks[place] // replicas + self.device.least_blocks)

    def _alone(self) -> Row:
        """A request at a time, with a cache that never evicts: no deployment of this device is faster."""
        config = replace(self.config, policy="lru", policy_params={}, **TIER_DEFAULTS, concurrency=1)
        config = replace(config, capacity_blocks=None)
        return sweep([GridRun(self.wanted.trace, config)], self.out / "runs.jsonl", jobs=1)[0]
