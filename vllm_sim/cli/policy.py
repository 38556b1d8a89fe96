"""`vllm-sim policy check`: whether a policy keeps what every policy must keep, and what it costs."""

import argparse
from typing import Any

from vllm_sim.cli.checks import add_check, report


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("policy", help="eviction policies")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    about = "try a policy on random traffic: what must hold of every policy, and its cost"
    add_check(commands, "policy", _check, about, "mine:Twice")


def _check(options: argparse.Namespace) -> int:
    from vllm_sim.eviction.check import Cost, measure_cost, run_checks

    def text(cost: Cost) -> str:
        return f"{cost.block_us:.2f} us a block, {cost.over_lru:.1f} times lru"

    chosen = options.policy, options.policy_params
    return report("policy", options.policy, run_checks(*chosen), lambda: measure_cost(*chosen), text, options.json)
