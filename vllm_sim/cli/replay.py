"""`vllm-sim replay`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from vllm_sim.cli.progress import progress_bar
from vllm_sim.cli.running import (
    add_cache_options,
    add_engine_options,
    add_model,
    json_object,
    quieten_vllm,
    shared_settings,
)


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "replay",
        help="run a trace through vLLM's engine in virtual time, or through its cache alone",
        description="Writes summary.jsonl, requests.jsonl, sessions.jsonl and run.json into a folder; the engine adds "
        "evictions.jsonl and blocks.jsonl. Fields and units: vllm_sim/replay/rows.py and summary.py.",
        epilog="example: vllm-sim replay trace.jsonl --out runs/first --capacity-blocks 1000 --concurrency 8",
    )
    parser.add_argument("trace", type=Path, metavar="TRACE", help="trace in the native format")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the files of the run")
    add_model(parser)
    cache = parser.add_argument_group("cache")
    add_cache_options(cache, backend="engine")
    cache.add_argument("--capacity-blocks", type=_capacity, default=None, metavar="N|unlimited", help="usable blocks")
    cache.add_argument("--block-size", type=int, default=16, metavar="B", help="tokens a block (default: 16)")
    cache.add_argument("--policy", default="lru", help="eviction policy, by name or module:Class (default: lru)")
    cache.add_argument("--policy-params", type=json_object, default={}, metavar="JSON")
    cache.add_argument("--seed", type=int, default=0)
    engine = add_engine_options(parser)
    engine.add_argument("--timeline", type=Path, metavar="FILE", help="write a trace that Perfetto opens")
    engine.add_argument("--no-attribution", action="store_true", help="only what vLLM tells by itself; faster")
    parser.add_argument("--expect", type=Path, metavar="FILE", help="a stored summary.jsonl whose hits must come again")
    parser.add_argument("--json", action="store_true", help="print the summary row as JSON")
    parser.set_defaults(run=run_replay)


def _capacity(text: str) -> int | None:
    if text == "unlimited":
        return None
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of blocks; allowed: 1 or more, unlimited") from None


def run_replay(options: argparse.Namespace) -> int:
    quieten_vllm()
    from vllm_sim.replay.expect import differences, read_expected
    from vllm_sim.replay.run import replay
    from vllm_sim.replay.settings import Settings

    settings = Settings(
        **shared_settings(options),
        capacity_blocks=options.capacity_blocks,
        block_size=options.block_size,
        policy=options.policy,
        timeline=options.timeline,
        seed=options.seed,
        attribution=not options.no_attribution,
    )
    stored = read_expected(options.expect) if options.expect else None
    with progress_bar("requests") as progress:
        summary = replay(options.trace, options.out, settings, progress)
    if options.json:
        print(json.dumps(summary, ensure_ascii=False))
    else:
        _print_table(summary)
    if stored is None:
        return 0
    found = differences(options.expect, stored, summary)
    for line in found:
        print(f"vllm-sim: {line}", file=sys.stderr)
    return 1 if found else 0


def _print_table(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{summary['trace']}: {summary['backend']}, {summary['policy']}", show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in summary.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:,.4f}")
        elif isinstance(value, int) and not isinstance(value, bool):
            table.add_row(name, f"{value:,}")
    Console().print(table)
    for group in ("by_workload", "by_turn"):
        rates = summary.get(group)
        if rates:
            table = Table(group.removeprefix("by_"), "requests", "prompt tokens", "token hit rate", title=group)
            for name, row in rates.items():
                table.add_row(name, f"{row['requests']:,}", f"{row['prompt_tokens']:,}", f"{row['token_hit_rate']:.4f}")
            Console().print(table)
