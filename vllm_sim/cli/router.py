"""`vllm-sim router list` and `router check`: which routers there are, and whether one keeps what all must keep."""

import argparse
import json
from typing import Any

from vllm_sim.cli.checks import add_check, report


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("router", help="routers before several replicas")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    listed = commands.add_parser(
        "list", help="the routers that have a name, and what each sees", epilog="example: vllm-sim router list"
    )
    listed.add_argument("--json", action="store_true", help="print them as one JSON object")
    listed.set_defaults(run=_list)
    about = "try what must hold of every router, and what it costs and gives"
    add_check(commands, "router", _check, about, "prefix_hash --router-params '{\"blocks\": 2}'")


def _list(options: argparse.Namespace) -> int:
    from vllm_sim.fleet.registry import find_router, registered_routers
    from vllm_sim.terminal import printable

    found = []
    for name in registered_routers():
        router = find_router(name)
        found.append((name, router.sees, (router.__doc__ or "").partition("\n")[0]))
    if options.json:
        print(json.dumps({name: {"sees": sees, "rule": rule} for name, sees, rule in found}))
    else:
        for name, sees, rule in found:
            print(printable(f"{name:14} {sees:9} {rule}"))
    return 0


def _check(options: argparse.Namespace) -> int:
    from vllm_sim.fleet.check import RouterCost, measure_router, run_router_checks

    def text(cost: RouterCost) -> str:
        return (
            f"{cost.request_us:.1f} us a request, {cost.over_round_robin:.1f} times round_robin\n"
            f"{cost.hit_blocks:,} hit blocks, round_robin {cost.round_robin_hit_blocks:,}; "
            f"largest share of a replica {cost.largest_share:.2f}"
        )

    chosen = options.router, options.router_params
    return report(
        "router", options.router, run_router_checks(*chosen), lambda: measure_router(*chosen), text, options.json
    )
