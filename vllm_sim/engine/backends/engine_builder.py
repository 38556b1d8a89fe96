"""vLLM's EngineCore in this process, over a trace, with any eviction policy: what the driver steps.

Faithful to vLLM 0.32 (v1/engine/core.py, read): configuration and engine are upstream's. One value of its scheduler is
set afterwards: max_model_len (compat.py, row max_length).
"""

import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from vllm.config import KVEventsConfig, KVTransferConfig, VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from vllm_sim.engine import compat
from vllm_sim.engine.backends.cache_groups import keeps_everything
from vllm_sim.engine.backends.row_executor import RowExecutor
from vllm_sim.engine.kv_cache import has_full_attention
from vllm_sim.engine.options import KEY
from vllm_sim.engine.platform import ReplayPlatform
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.engine.pool import Description, adopt
from vllm_sim.eviction.chains import Array, Chains, Floats
from vllm_sim.eviction.online_cache import OnlineCache, online_context
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import make_policy
from vllm_sim.eviction.simulate import make_context
from vllm_sim.named_classes import load_class
from vllm_sim.trace.hints import NO_HINTS, Hints
from vllm_sim.trace.tokens import TokenisedTrace


class RowFacts(NamedTuple):
    """What a policy may know of the rows of a trace."""

    category: Array
    """Workload and turn as one small number, by row."""
    salts: Sequence[str | None]
    """cache_salt by row."""
    chains: Chains | None
    """The blocks of all rows, for `belady` alone."""
    arrival_ms: Floats | None = None
    """Timestamp by row, NaN for none; None: nowhere."""
    hints: Floats | None = None
    """By row; [n, 4], the fields of Hints; None: nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The engine's configuration."""

    capacity_blocks: int
    block_size: int
    max_model_len: int
    model_positions: int
    """What the model's own configuration allows."""
    max_num_seqs: int
    max_num_batched_tokens: int
    async_scheduling: bool = False
    policy: str = "lru"
    policy_params: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    is_unlimited: bool = False
    """Nothing is ever evicted: several cache groups take as many blocks as they need, whatever capacity_blocks is."""
    publishes: bool = False
    """KV events are collected and published, to what takes them (fleet.py)."""
    tier: dict[str, Any] | None = None
    """Blocks in CPU memory: the extra configuration of vLLM's OffloadingConnector; None: there are none."""
    tier_gb_per_s: float | None = None
    """To CPU memory, and as many from it; None: copies take no time."""
    upstream: dict[str, Any] = field(default_factory=dict)
    """Further arguments of EngineArgs, by name; what is not there is vLLM's default."""


def make_core(trace: Path, model: str, setup: Setup, facts: RowFacts | None = None) -> EngineCore:
    """Builds the engine over a trace.

    Args:
        trace: The trace.
        model: Folder of the model.
        setup: The configuration.
        facts: What the policy may know; None for `lru`.

    Raises:
        ValueError: the policy or a parameter is not known, or needs what it is not given.
        RuntimeError: vllm was imported before VLLM_SIM_TRACE_PATH was set, and has chosen another platform.
    """
    if not isinstance(current_platform, ReplayPlatform):
        raise RuntimeError(
            f"vllm runs on {type(current_platform).__name__}: set {TRACE_VARIABLE} before vllm is imported"
        )
    numbers: dict[BlockHash, int] = {}
    online = _make_online(setup, facts, numbers)
    os.environ[TRACE_VARIABLE] = str(trace)
    config = _engine_config(model, setup, is_full=True)
    if not has_full_attention(config.model_config):
        if facts is not None and facts.chains is not None:
            reason = f"policy {setup.policy} knows the future of one group of blocks, and layers of the model keep less"
            raise ValueError(f"{reason}; allowed there: policies that know none")
        config = _engine_config(model, setup, is_full=False)
    core = EngineCore(config, RowExecutor, log_stats=False)
    if setup.tier is not None:
        from vllm_sim.engine.tier import order_finished  # imports upstream's connector

        order_finished(scheduler_of(core).connector)
    longest = setup.max_model_len
    if not keeps_everything(scheduler_of(core).kv_cache_manager):
        longest = min(longest, config.model_config.max_model_len)
        blocks = scheduler_of(core).kv_cache_manager.block_pool.num_gpu_blocks - 1
        online = _make_online(replace(setup, capacity_blocks=blocks), facts, numbers)
    compat.MAX_LENGTH.put(core.scheduler, longest)
    if facts is not None and online is not None:
        if facts.chains is not None:
            assert isinstance(core.model_executor, RowExecutor)
            numbers.update(number_hashes(core, core.model_executor.trace, facts.chains, facts.salts))
        _adopt(core, online, facts)
    return core


def _engine_config(model: str, setup: Setup, is_full: bool) -> VllmConfig:
    """vLLM's configuration.

    Args:
        model: The model's folder.
        setup: The configuration.
        is_full: Whether all layers have full attention, so that a request needs the blocks that its tokens
            fill. Else upstream finds the longest request that the cache can serve.

    Raises:
        ValueError: an argument of `setup.upstream` is not vLLM's, or is set here.
    """
    blocks: int | None = setup.capacity_blocks + 1  # and the null block
    wanted = setup.max_model_len
    if is_full:
        wanted = min(wanted, setup.capacity_blocks * setup.block_size)
    elif setup.is_unlimited:
        blocks = None
    arguments: dict[str, Any] = {
        "model": model,
        "tokenizer": model,
        "seed": setup.seed,
        "block_size": setup.block_size,
        "num_gpu_blocks_override": blocks,
        "max_model_len": wanted if is_full else -1,
        "hf_overrides": {"max_position_embeddings": wanted} if wanted > setup.model_positions else {},
        "max_num_seqs": setup.max_num_seqs,
        "max_num_batched_tokens": setup.max_num_batched_tokens,
        "async_scheduling": setup.async_scheduling,
        "disable_log_stats": True,
        "additional_config": {KEY: {"on_inexact": "warn", "offload_gbps": setup.tier_gb_per_s}},
        "kv_transfer_config": None,
        "kv_offloading_size": None,
    }
    if setup.publishes:
        arguments["kv_events_config"] = KVEventsConfig(enable_kv_cache_events=True, publisher="null")
    if setup.tier is not None:
        arguments["kv_transfer_config"] = KVTransferConfig(
            kv_connector="OffloadingConnector", kv_role="kv_both", kv_connector_extra_config=setup.tier
        )
    allowed = {field.name for field in fields(EngineArgs)} - arguments.keys()
    for name in setup.upstream:
        if name not in allowed:
            raise ValueError(
                f"engine argument {name!r} is unknown or set otherwise; allowed: {', '.join(sorted(allowed))}"
            )
    # Token ids are all that goes in and out; vLLM caches no prefixes of models with states unless it is configured to.
    more = {"skip_tokenizer_init": True, "enable_prefix_caching": True} | setup.upstream
    if isinstance(more.get("scheduler_cls"), str):
        more["scheduler_cls"] = find_scheduler(more["scheduler_cls"], setup.async_scheduling)
    return EngineArgs(**arguments, **more).create_engine_config()


def find_scheduler(path: str, is_async: bool) -> type[Scheduler]:
    """A scheduler's class.

    Args:
        path: `module:Class`; the module may lie in the working directory.
        is_async: whether scheduling is asynchronous.

    Raises:
        ValueError: there is none, or it is no subclass of upstream's for such scheduling. With another one upstream's
            queue of batches stays two deep and each request is scheduled in every other step.
    """
    return load_class("scheduler_cls", path, path, AsyncScheduler if is_async else Scheduler, ())


def scheduler_of(core: EngineCore) -> Scheduler:
    """The scheduler of an engine that make_core built, which is vLLM's own."""
    assert isinstance(core.scheduler, Scheduler)
    return core.scheduler


def _make_online(setup: Setup, facts: RowFacts | None, numbers: dict[BlockHash, int]) -> OnlineCache | None:
    """The policy's online, before there is an engine that an error would leave; None for `lru`.

    Args:
        setup: The configuration.
        facts: What the policy may know.
        numbers: Filled before the online is used: the node of each block hash, where the chains are known.

    Raises:
        ValueError: the policy or a parameter is not known, or needs what it is not given.
    """
    policy, params, capacity = setup.policy, setup.policy_params, setup.capacity_blocks
    if policy == "lru":
        make_policy(policy, PolicyContext(capacity, nodes=1), params)
        return None
    if facts is None:
        raise ValueError(f"policy {policy} needs the rows' categories; allowed without them: lru")
    if facts.chains is None:
        categories = int(facts.category.max(initial=0)) + 1
        return OnlineCache(
            policy, online_context(policy, capacity, params, setup.seed)._replace(categories=categories), params
        )
    context = make_context(facts.chains, policy, capacity, setup.seed)
    return OnlineCache(policy, context, params, lambda names: np.array([numbers[BlockHash(name)] for name in names]))


def _adopt(core: EngineCore, online: OnlineCache, facts: RowFacts) -> None:
    """Puts the pool of an engine that has served nothing under a policy; `belady` knows the order of rows before."""
    category = facts.category.tolist()
    arrival_ms = [math.nan] * len(category) if facts.arrival_ms is None else facts.arrival_ms.tolist()
    hints = [NO_HINTS] * len(category) if facts.hints is None else [Hints(*said) for said in facts.hints.tolist()]
    started = itertools.count()

    def describe(request: Request) -> Description:
        row = int(request.request_id)
        return Description(next(started) if facts.chains is None else row, category[row], arrival_ms[row], hints[row])

    adopt(scheduler_of(core).kv_cache_manager, online, describe)


def number_hashes(
    core: EngineCore, trace: TokenisedTrace, chains: Chains, salts: Sequence[str | None]
) -> dict[BlockHash, int]:
    """The node of each block hash that the rows will have; the last generated token is never computed."""
    numbers: dict[BlockHash, int] = {}
    for row, salt in enumerate(salts):
        tokens = np.concatenate([trace.prompt(row), trace.response(row)[:-1]]).tolist()
        request = Request(
            str(row),
            tokens,
            SamplingParams(max_tokens=1),
            None,
            arrival_time=0.0,
            cache_salt=salt,
            block_hasher=core.request_block_hasher,
        )
        nodes = chains.nodes[chains.begins[row] : chains.begins[row + 1]].tolist()
        numbers.update(zip(request.block_hashes, nodes, strict=True))
    return numbers
