"""One run: a trace in, an outcome and its summary out, by one of three backends; nothing is written.

`engine` drives vLLM's EngineCore in virtual time; `blockpool` vLLM's KV-cache manager, one request after the other;
`fast` the compiled kernel of `vllm_sim.eviction`. What a backend needs is imported when it is used, by its entry in
config.BACKENDS, so that the fingerprint of a row (provenance.py) holds the code of its own backend alone.
"""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.eviction.simulate import Run
from vllm_sim.models.layers import keeps_less, kv_bytes_a_token
from vllm_sim.provenance import load_entry
from vllm_sim.replay.backends import BACKENDS, CACHE_OF_GROUPS, TIERS
from vllm_sim.replay.breakdown import Blocks, breakdown
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.fleet import serve_fleet
from vllm_sim.replay.outcome import Fleet, Labels, Outcome, TierHits, TierTraffic, Totals, labels_of
from vllm_sim.replay.requests import cache_requests, raw_requests, retokenised_tokens
from vllm_sim.replay.rows import RequestResult, RunSummary
from vllm_sim.replay.summary import summarise
from vllm_sim.trace.columns import load_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised
from vllm_sim.vllm_version import found_version, installed_version


class Loaded(NamedTuple):
    """A trace as runs read it; many may share it."""

    path: Path
    trace: TokenisedTrace
    records: Sequence[Record]
    """Without what was said, which the trace has as tokens."""
    labels: Labels
    retokenised: Sequence[int | None]


class Linked(NamedTuple):
    """A trace's blocks at a block size, which the backends without a schedule read; many runs may share them."""

    requests: Requests
    chains: Chains


class Watcher(Protocol):
    """What follows a run of the engine as it goes; it changes no row."""

    @property
    def step(self) -> Callable[[Any], None] | None:
        """What is called with each step that has ended (`engine.backends.driver.Step`), if anything is."""

    def request(self, result: RequestResult) -> None:
        """A request that has ended."""


class Result(NamedTuple):
    """What came of a run."""

    summary: RunSummary
    outcome: Outcome


def load(path: Path, model: str | None = None) -> Loaded:
    """Reads a trace.

    Args:
        path: the trace.
        model: the model's folder; None does where the trace has no text.

    Raises:
        TraceError: a row lacks what the tokeniser needs, or has a text, and there is no tokenizer.
        ValueError: there is no such model.
    """
    trace = load_tokenised(path, model)
    records = load_records(path, trace.sha256)
    return Loaded(path, trace, records, labels_of(records), retokenised_tokens(trace, records))


def link_blocks(loaded: Loaded, block_size: int, raw_blocks: bool) -> Linked:
    """Links a trace's blocks.

    Raises:
        TraceError: raw blocks, and a row without hash ids of this block size.
    """
    if raw_blocks:
        requests = raw_requests(loaded.path, loaded.trace, loaded.records, block_size)
    else:
        requests = cache_requests(loaded.trace, loaded.records, block_size)
    return Linked(requests, link(requests, block_size, raw=raw_blocks))


def run(
    loaded: Loaded,
    config: RunConfig,
    linked: Linked | None = None,
    progress: Callable[[int], None] = lambda done: None,
    watcher: Watcher | None = None,
) -> Result:
    """Runs a trace; nothing is written.

    Args:
        loaded: the trace.
        config: how.
        linked: `link_blocks` of the trace, where it is there already; the engine needs none.
        progress: called with the number of finished requests.
        watcher: engine: what follows the run as it goes.

    Raises:
        TraceError: a row lacks what the backend needs.
        ValueError: a value of the configuration does not go with the trace.
        VersionError: the backend needs vLLM, which is not installed or too old.
    """
    if config.backend == "engine":
        result: Result = load_entry(BACKENDS["engine"])(loaded, config, progress, watcher)
        return result
    check_layers(config)
    if has_groups(config):
        if config.replicas > 1:
            raise ValueError(
                f"replicas is {config.replicas}, and backend {config.backend} serves {config.model} with several "
                "cache groups by one cache alone; allowed: 1, or backend engine"
            )
        cached: Result = load_entry(CACHE_OF_GROUPS[config.backend])(loaded, config, progress)
        return cached
    linked = linked or link_blocks(loaded, config.block_size, config.raw_blocks)
    retokenised = None if config.raw_blocks else loaded.retokenised
    outcome = serve(linked, loaded.records, loaded.labels, config, retokenised)
    progress(len(loaded.records))
    return Result(summarise(config, loaded.path.name, loaded.trace.sha256, outcome), outcome)


def has_groups(config: RunConfig) -> bool:
    """Whether a run is of a cache whose layers do not all keep the same."""
    return config.model is not None and not config.raw_blocks and keeps_less(config.model) is not None


def check_layers(config: RunConfig) -> None:
    """Refuses a model whose layers keep less than every token, where `fast` is not exact for it.

    Raises:
        ValueError: it does not serve the model so; names the backends that do.
    """
    if config.backend != "fast" or config.model is None or config.raw_blocks:
        return
    field = keeps_less(config.model)
    if field is not None and (config.policy == "belady" or config.is_curve):
        what = "all capacities at once" if config.is_curve else "policy belady, which knows the future of one group"
        reason = f"backend fast serves full attention alone with {what}, and {config.model} has {field}"
        raise ValueError(f"{reason} in its config.json; allowed: one capacity, or another policy")


def serve(
    linked: Linked,
    records: Sequence[Record],
    labels: Labels,
    config: RunConfig,
    retokenised: Sequence[int | None] | None = None,
) -> Outcome:
    """What `fast` or `blockpool` make of requests, one after the other.

    Args:
        linked: the requests' blocks.
        records: the requests.
        labels: theirs.
        config: how.
        retokenised: as `Loaded` has it.
    """
    if config.kv_offloading_size is not None:
        return _serve_tiers(linked, records, labels, config, config.kv_offloading_size, retokenised)
    if config.backend == "blockpool":
        installed_version()  # its module imports vLLM
    if config.replicas > 1:
        served = serve_fleet(linked, records, config)
        outcome = outcome_of(served.run, linked, records, labels, config, retokenised)
        return replace(outcome, fleet=Fleet(served.replica, config.replica_blocks, served.evicted_blocks))
    found = load_entry(BACKENDS[config.backend])(
        linked.chains, config.policy, config.blocks, config.policy_params, config.seed
    )
    return outcome_of(found, linked, records, labels, config, retokenised)


def tier_version() -> str:
    """The vLLM whose CPU memory `fast` has: the installed one, the oldest where there is none.

    Raises:
        ValueError: it has none of the installed one.
    """
    version = found_version() or next(iter(TIERS))
    for known in TIERS:
        if version == known or version.startswith(f"{known}."):
            return known
    raise ValueError(
        f"kv_offloading_size with backend fast, which has CPU memory as vllm {', '.join(TIERS)} do, and {version} is "
        "installed; allowed: backend engine"
    )


def _serve_tiers(
    linked: Linked,
    records: Sequence[Record],
    labels: Labels,
    config: RunConfig,
    size_gib: float,
    retokenised: Sequence[int | None] | None,
) -> Outcome:
    """As `serve`, with so many GiB of CPU memory; only `fast` comes here."""
    requests, chains = linked
    size = config.block_size
    block_bytes = size * kv_bytes_a_token(config.model)
    chunk_bytes = -(-block_bytes // mmap.PAGESIZE) * mmap.PAGESIZE  # as CPUOffloadingSpec
    chunks = int(size_gib * 2**30) // chunk_bytes
    found, tier = load_entry(TIERS[tier_version()])(
        chains, requests.output_tokens, config.policy, config.blocks, chunks, 1, config.policy_params, config.seed
    )
    outcome = outcome_of(found, linked, records, labels, config, retokenised)
    stored, loaded, unused = (
        count * block_bytes for count in (tier.stored_blocks, tier.loaded_blocks, tier.unused_blocks)
    )
    return replace(
        outcome,
        tier=TierHits(*(part * size for part in (tier.external, tier.gone, tier.pending, tier.never))),
        traffic=TierTraffic(chunks, stored, loaded, unused, stall_ms=0.0),
    )


def outcome_of(
    found: Run,
    linked: Linked,
    records: Sequence[Record],
    labels: Labels,
    config: RunConfig,
    retokenised: Sequence[int | None] | None = None,
) -> Outcome:
    """What a backend without a schedule found, in tokens; arguments as those of `serve`."""
    requests, chains = linked
    blocks = Blocks(found.hit, found.hit_generated, found.cold, found.missed)
    return Outcome(
        records=records,
        labels=labels,
        block_size=config.block_size,
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens * ~found.rejected,
        rejected=found.rejected,
        parts=breakdown(blocks, requests.prompt_tokens, config.block_size, config.raw_blocks),
        evicted_by=found.evicted_by,
        blocks_allocated=found.allocated,
        totals=Totals(chains.working_set, found.evicted_blocks, found.orphan_blocks),
        retokenised=retokenised,
    )
