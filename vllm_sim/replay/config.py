"""What a run is configured with: one type, from which command line, identity of a row and groups of plots are derived.

A field is written once, with its default and an `About`: what it means, its unit, what is allowed, and which backends
heed it. `config_fields` lists them. A row of results begins with the fields of its run, so that a row can be turned
back into a configuration (`config_of`) and run again.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from vllm_sim.eviction.names import full_name
from vllm_sim.fleet.names import DEFAULT
from vllm_sim.replay.about import About, Field, fields_of
from vllm_sim.replay.backends import BACKENDS
from vllm_sim.replay.config_checks import ALL, MOST, OPTIONAL, SCHEDULER, check
from vllm_sim.replay.latency import DEVICES, MODELS, LatencyTable


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is configured with, its trace apart; the defaults are those of `vllm-sim replay`.

    Raises:
        ValueError: a value is out of range, or does not go with another; msgspec.ValidationError is one.
    """

    model: Annotated[str | None, About("model folder, which texts and the engine need", metavar="FOLDER")] = None
    backend: Annotated[str, About("what runs", choices=tuple(BACKENDS))] = "engine"
    policy: Annotated[
        str, About("eviction policy, by name or module:Class", grid="policies", metavar="P", plot="line")
    ] = "lru"
    policy_params: Annotated[
        dict[str, Any], About("the policy's parameters, an object", metavar="JSON", plot="line")
    ] = {}
    capacity_blocks: Annotated[
        int | Literal["all"] | None,
        About(
            "usable blocks, of all replicas together; null: nothing is ever evicted",
            "blocks",
            at_least=1,
            grid="capacities",
            metavar="N",
            plot="axis",
        ),
    ] = None
    replicas: Annotated[
        int, About("replicas of a fleet, which share capacity_blocks equally", at_least=1, grid="replicas", metavar="N")
    ] = 1
    router: Annotated[
        str | None,
        About(
            "before several replicas, by name or module:Class; null: one replica",
            grid="routers",
            metavar="R",
        ),
    ] = None
    router_params: Annotated[dict[str, Any], About("the router's parameters, an object", metavar="JSON")] = {}
    block_size: Annotated[
        int, About("tokens a block", "tokens", at_least=1, grid="block-sizes", metavar="B", plot="axis")
    ] = 16
    raw_blocks: Annotated[bool, About("each hash id is one block, outputs left out (fast)")] = False
    warmup: Annotated[float, About("the first part of the requests, left out of the rates", metavar="FRACTION")] = 0.0
    seed: Annotated[int, About("of policies that draw", grid="seeds", metavar="S", plot="seed")] = 0
    attribution: Annotated[bool, About("whether hits and misses are explained", scope="engine")] = True
    concurrency: Annotated[
        int | None,
        About(
            "closed loop of so many requests; else rows arrive at their timestamps",
            "requests",
            "engine",
            at_least=1,
            metavar="N",
        ),
    ] = None
    speedup: Annotated[float, About("divides timestamps and think times", scope="engine", metavar="X")] = 1.0
    latency_model: Annotated[str, About("how long a step takes", scope="engine", choices=MODELS)] = "roofline"
    device: Annotated[str, About("for roofline", scope="engine", choices=tuple(DEVICES))] = "h100"
    tensor_parallel: Annotated[
        int,
        About("devices that share each layer; blocks are those of one", "devices", "engine", at_least=1, metavar="T"),
    ] = 1
    host_overhead_ms: Annotated[
        float, About("for roofline: what the host takes for each step", "ms", "engine", metavar="MS")
    ] = 0.0
    latency_table: Annotated[
        LatencyTable | None, About("for table: what vllm-sim calibrate fitted", scope="engine")
    ] = None
    max_num_seqs: Annotated[int, About("requests in a step, as vLLM has it", "requests", "engine", at_least=1)] = 256
    max_num_batched_tokens: Annotated[
        int, About("tokens in a step, as vLLM has it", "tokens", "groups", at_least=1)
    ] = 8192
    max_model_len: Annotated[
        int | None, About("longest request that is served; default: of the trace", "tokens", "engine", at_least=1)
    ] = None
    async_scheduling: Annotated[
        bool, About("schedule a step when the one before it begins, as servers do", scope="engine")
    ] = False
    scheduling_policy: Annotated[
        str, About("order of waiting requests, as vLLM has it", scope="engine", choices=("fcfs", "priority"))
    ] = "fcfs"
    scheduler_cls: Annotated[
        str | None,
        About("a subclass of vLLM's scheduler, module:Class; null: vLLM's own", scope="engine", metavar="C"),
    ] = None
    long_prefill_token_threshold: Annotated[
        int, About("tokens of a longer prompt in a step; 0: no limit", "tokens", "engine", at_least=0, metavar="N")
    ] = 0
    watermark: Annotated[
        float, About("share of blocks kept free when a request starts", scope="engine", metavar="SHARE")
    ] = 0.0
    scheduler_reserve_full_isl: Annotated[
        bool, About("a request starts where its whole prompt fits, not its first chunk", scope="engine")
    ] = True
    max_num_active_seqs: Annotated[
        int | None,
        About("requests that may run at a time; null: max_num_seqs", "requests", "engine", at_least=1),
    ] = None
    kv_offloading_size: Annotated[
        float | None,
        About(
            "CPU memory of each replica that holds blocks too, by vLLM's own offloading; default: none",
            "GiB",
            grid="kv-offloading-sizes",
            metavar="GIB",
        ),
    ] = None
    offload_gbps: Annotated[
        float | None,
        About(
            "gigabytes a second that are copied to CPU memory, and as many from it; default: of the device",
            "GB/s",
            "engine",
            metavar="X",
        ),
    ] = None
    offload_block_size: Annotated[
        int | None, About("tokens a chunk in CPU memory; default: a block", "tokens", at_least=1, metavar="B")
    ] = None
    offload_store_threshold: Annotated[
        int, About("offers of a chunk, until it is stored in CPU memory", "", "engine", at_least=1, metavar="N")
    ] = 1
    offload_policy: Annotated[
        str,
        About(
            "what evicts chunks from CPU memory: lru and arc, vLLM's own, or one of --policy's",
            scope="engine",
            metavar="P",
        ),
    ] = "lru"
    plain_steps: bool = False
    """Engine: show vLLM's scheduler every step (engine/backends/sparse.py). No part of a row: it is the same."""
    engine_args: Annotated[
        dict[str, Any],
        About("further arguments of vLLM's engine, an object", scope="groups", metavar="JSON"),
    ] = {}

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "policy", full_name(self.policy))
        msgspec.structs.force_setattr(self, "router", (self.router or DEFAULT) if self.replicas > 1 else None)
        if self.replicas == 1:  # whatever the router, it has no choice
            msgspec.structs.force_setattr(self, "router_params", {})
        for field in config_fields():
            value, about = getattr(self, field.name), field.about
            if about.choices and value not in about.choices:
                raise ValueError(f"{field.name} is {value!r}; allowed: {', '.join(about.choices)}")
            if about.at_least is not None and isinstance(value, int) and value < about.at_least:
                raise ValueError(f"{field.name} is {value}; allowed: {about.at_least} or more")
            if isinstance(value, int) and abs(value) > MOST:
                raise ValueError(f"{field.name} is {value}; allowed: up to {MOST:,}")
        check(self)

    def scheduler_args(self) -> dict[str, Any]:
        """The options of vLLM's scheduler that are not its defaults.

        Raises:
            ValueError: engine_args has one of them too.
        """
        found = {name: getattr(self, name) for name, default in SCHEDULER.items() if getattr(self, name) != default}
        twice = ", ".join(sorted(found.keys() & self.engine_args.keys()))
        if twice:
            raise ValueError(f"engine_args has {twice}, which is an option of its own; allowed: one of the two")
        return found

    @property
    def is_curve(self) -> bool:
        """Whether LRU is to be run at every capacity."""
        return self.capacity_blocks == ALL

    @property
    def blocks(self) -> int | None:
        """The capacity of a single run.

        Raises:
            ValueError: it is `all`.
        """
        if isinstance(self.capacity_blocks, str):
            raise ValueError("capacity all is no single capacity; allowed: `vllm-sim sweep`")
        return self.capacity_blocks

    @property
    def replica_blocks(self) -> int | None:
        """The capacity of a replica: an equal share, rounded down.

        Raises:
            ValueError: as `blocks`.
        """
        return None if self.blocks is None else self.blocks // self.replicas

    def values(self) -> dict[str, Any]:
        """The fields that decide a row, by name, as JSON has them: of the model the folder's name, not its place."""
        values, optional = msgspec.to_builtins(self), optional_fields(self.backend)
        heeded = heeded_fields(self.backend)
        chosen = [name for name in heeded if name not in optional or values[name] != optional[name]]
        return {name: values[name] for name in chosen} | {
            "model": None if self.model is None else Path(self.model).name
        }


def heeded_fields(backend: str) -> list[str]:
    """The fields that a backend may heed."""
    return [field.name for field in config_fields() if backend == "engine" or field.about.scope != "engine"]


def optional_fields(backend: str) -> dict[str, Any]:
    """The fields that are left out of a backend's rows where they have this default."""
    if backend == "engine":
        return OPTIONAL
    defaults = msgspec.structs.asdict(RunConfig(backend="fast"))
    return OPTIONAL | {field.name: defaults[field.name] for field in config_fields() if field.about.scope == "groups"}


def config_fields() -> tuple[Field, ...]:
    """The fields of RunConfig."""
    return fields_of(RunConfig)


def config_of(row: dict[str, Any], model: str | None) -> RunConfig:
    """The configuration that gave a row.

    Args:
        row: of replay or sweep.
        model: the model's folder; a row holds its name alone, or null, and then the run had none.

    Raises:
        ValueError: the row lacks a field, or a value is not allowed.
    """
    backend = row.get("backend", "")
    wanted = [name for name in heeded_fields(backend) if name in row or name not in optional_fields(backend)]
    missing = [name for name in wanted if name not in row]
    if missing:
        raise ValueError(f"the row has no {', '.join(missing)}; allowed: rows of replay or sweep")
    values = {name: row[name] for name in wanted}
    return msgspec.convert(values | {"model": None if values["model"] is None else model}, RunConfig)
