"""`vllm-sim workload build`."""

import argparse
from pathlib import Path


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    group = commands.add_parser("workload", help="compose traces and generated requests into one workload")
    actions = group.add_subparsers(title="commands", required=True, metavar="COMMAND")
    build = actions.add_parser(
        "build",
        help="make the trace that a configuration describes; the same bytes every time",
        epilog="example: vllm-sim workload build milestone3_code/mixed.toml --out data/mixed.jsonl.zst",
    )
    build.add_argument("config", type=Path, metavar="CONFIG.toml", help="sources, arrivals, think times, seed")
    build.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="trace; packed if it ends in .gz or .zst"
    )
    build.set_defaults(run=run_build)


def run_build(options: argparse.Namespace) -> None:
    from vllm_sim.terminal import say
    from vllm_sim.workloads.build import build
    from vllm_sim.workloads.show import show_built

    built = build(options.config, options.out)
    show_built(built)
    say(f"{options.out}: {sum(b.requests for b in built)} requests, {sum(b.sessions for b in built)} sessions")
