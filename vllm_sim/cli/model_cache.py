"""`vllm-sim model cache`."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from vllm_sim.cli.running import json_object, quieten_vllm

if TYPE_CHECKING:
    from vllm_sim.engine.model_cache import CacheFacts


def add_cache_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "cache",
        help="what a model's KV cache is made of, how much of it fits, and the shortest prefix that can be hit",
        description="Starts vLLM's engine for the model, without weights, and prints what it computes: cache groups, "
        "bytes a token, tokens and requests that fit. Memory is that of one device; --tensor-parallel shares each "
        "layer among several. What a device keeps besides weights and cache is an assumption (--reserve).",
        epilog="examples: vllm-sim model cache exported_models/Llama-3.2-1B-Instruct --memory 40GiB | "
        "vllm-sim model cache gpt-oss-20b --device h100 --tensor-parallel 2 --json",
    )
    parser.add_argument("model", metavar="MODEL", help="folder with a config.json, as `vllm-sim model config` writes")
    memory = parser.add_mutually_exclusive_group()
    memory.add_argument("--memory", type=size, metavar="SIZE", help="of the KV cache on a device, as in 40GiB")
    memory.add_argument("--device", metavar="NAME", help="a known device: weights and reserve are taken off its memory")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="T", help="devices that share each layer")
    parser.add_argument("--max-model-len", type=int, metavar="N", help="longest request (default: the model's)")
    parser.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="with --device (default: vLLM's)")
    parser.add_argument("--weights", type=size, metavar="SIZE", help="with --device: of weights (default: unquantised)")
    parser.add_argument("--reserve", type=size, metavar="SIZE", help="with --device: activations and the rest (2GiB)")
    parser.add_argument(
        "--engine-args", type=json_object, default={}, metavar="JSON", help="further arguments of vLLM's engine"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object instead of tables")
    parser.set_defaults(run=run_cache)


def run_cache(options: argparse.Namespace) -> None:
    memory = memory_of(options)
    quieten_vllm()
    from vllm_sim.replay.cache_facts import cache_facts

    facts = cache_facts(
        options.model, memory, options.tensor_parallel, options.max_model_len, options.engine_args or None
    )
    if options.json:
        values = facts._asdict() | {"groups": [group._asdict() for group in facts.groups]}
        print(json.dumps({"model": options.model, "device": options.device} | values))
    else:
        _show(options.model, facts)


def memory_of(options: argparse.Namespace) -> int | dict[str, Any] | None:
    """The memory that the options name: bytes for the cache, the fields of a device's memory, or nothing.

    Raises:
        ValueError: the device is not known or its memory is not, or an option needs --device.
    """
    names = {"gpu_memory_utilization": "utilisation", "weights": "weights", "reserve": "reserve"}
    given = {field: value for name, field in names.items() if (value := getattr(options, name)) is not None}
    if options.device is None:
        if given:
            flag = next(name for name, field in names.items() if field in given).replace("_", "-")
            raise ValueError(f"--{flag} says what a device keeps besides the cache; allowed: with --device")
        return options.memory
    from vllm_sim.replay.latency import device_bytes

    share = given.get("utilisation", 1)
    if not 0 < share <= 1:
        raise ValueError(f"--gpu-memory-utilization is {share}; allowed: more than 0, up to 1")
    return {"total": device_bytes(options.device)} | given


def _show(model: str, facts: "CacheFacts") -> None:
    from vllm_sim.terminal import show_table

    groups = [
        (
            f"{group.kind}{f' of {group.window_tokens:,}' if group.window_tokens else ''}",
            group.layers,
            group.block_size,
            f"{group.page_bytes:,}",
            f"{group.page_bytes * group.layers / group.block_size:,.0f}",
        )
        for group in facts.groups
    ]
    heads = ("layers keep", "layers", "block, tokens", "bytes a block and layer", "bytes a token")
    show_table(f"{model}: cache groups on each of {facts.tensor_parallel} devices", heads, groups)
    rows: list[tuple[str, str]] = [
        ("block of the scheduler, tokens", f"{facts.block_size:,}"),
        ("block that is hashed, tokens", f"{facts.hash_block_size:,}"),
        ("bytes of a block of the pool", f"{facts.bytes_per_block:,}"),
        (f"bytes a token, of a request of {facts.max_model_len:,}", f"{facts.bytes_per_token:,.0f}"),
        ("hits are multiples of, tokens", f"{facts.hit_alignment_tokens:,}"),
        ("shortest prompt that can be hit again, tokens", f"{facts.shortest_prompt_hit_tokens:,}"),
    ]
    if facts.weight_bytes is not None:
        rows.append(("weights, GiB", f"{facts.weight_bytes / 2**30:.2f}"))
    if facts.memory_bytes is not None:
        rows += [
            ("memory for the cache, GiB", f"{facts.memory_bytes / 2**30:.2f}"),
            ("usable blocks", f"{facts.blocks:,}"),
            ("tokens that fit", f"{facts.kv_cache_size_tokens:,}"),
            (f"requests of {facts.max_model_len:,} tokens at once", f"{facts.kv_cache_max_concurrency:,.2f}"),
        ]
    show_table("by vLLM's own start of an engine", ("what", "value"), rows)


def size(text: str) -> int:
    """An argument that is a number of bytes."""
    from vllm_sim.sweep.capacity import size_bytes

    try:
        return size_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
