"""What `vllm-sim replay` and `vllm-sim sweep` have in common: options, and the settings made of them."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from vllm_sim.cli.model import DEFAULT_MODEL

_SHARED = (
    *("model", "backend", "raw_blocks", "policy_params", "warmup", "concurrency", "speedup", "latency_model", "device"),
    *("latency_file", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "async_scheduling"),
)


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default=DEFAULT_MODEL, help="model folder (default: %(default)s)")


def add_cache_options(group: argparse._ArgumentGroup, backend: str) -> None:
    """How the cache is served; backend: the default."""
    backends = ("engine", "blockpool", "fast")
    group.add_argument("--backend", choices=backends, default=backend, help="(default: %(default)s)")
    group.add_argument("--raw-blocks", action="store_true", help="each hash id is one block, outputs left out (fast)")
    group.add_argument("--warmup", type=float, default=0.0, metavar="FRACTION", help="left out of the rates")


def add_engine_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """What the backend `engine` alone heeds."""
    engine = parser.add_argument_group("engine only")
    engine.add_argument(
        "--concurrency", type=int, metavar="N", help="closed loop; else rows arrive at their timestamps"
    )
    engine.add_argument("--speedup", type=float, default=1.0, help="divides timestamps and think times")
    engine.add_argument("--latency-model", choices=("zero", "roofline", "table"), default="roofline")
    engine.add_argument("--device", choices=("h100", "a100", "l4", "laptop"), default="h100")
    engine.add_argument("--latency-file", type=Path, metavar="FILE", help="for table: what vllm-sim calibrate wrote")
    engine.add_argument("--max-num-seqs", type=int, default=256)
    engine.add_argument("--max-num-batched-tokens", type=int, default=8192)
    engine.add_argument("--max-model-len", type=int, help="default: the longest request")
    engine.add_argument(
        "--async-scheduling", action="store_true", help="schedule a step when the one before it begins, as servers do"
    )
    return engine


def shared_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What both commands put into the settings in the same way, by field."""
    return {name: getattr(options, name) for name in _SHARED}


def json_object(text: str) -> dict[str, Any]:
    """An argument that is a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    return value


def quieten_vllm() -> None:
    """Only warnings, and those to stderr; to be called before vllm is imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
