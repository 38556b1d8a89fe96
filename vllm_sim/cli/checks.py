"""What `policy check` and `router check` print: what must hold, and then the cost of what held."""

import argparse
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vllm_sim.cli.running import json_object
from vllm_sim.terminal import printable

if TYPE_CHECKING:
    from vllm_sim.eviction.check import CheckResult


def add_check(commands: Any, kind: str, run: Callable[[argparse.Namespace], int], help: str, example: str) -> None:
    """Adds the command `check` to those of a kind.

    Args:
        commands: What it is added to.
        kind: What is checked, `policy` or `router`.
        run: Runs it.
        help: What it does.
        example: What follows its name.
    """
    parser = commands.add_parser("check", help=help, epilog=f"example: vllm-sim {kind} check {example}")
    parser.add_argument(kind, metavar=kind.upper(), help="a name, or module:Class in the working directory")
    parser.add_argument(
        f"--{kind}-params", type=json_object, default={}, metavar="JSON", help=f"the {kind}'s parameters, an object"
    )
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object")
    parser.set_defaults(run=run)


def report(
    kind: str,
    name: str,
    checks: "Iterable[CheckResult]",
    measure: Callable[[], Any],
    text: Callable[[Any], str],
    as_json: bool,
) -> int:
    """Prints the results of checks; returns the exit status.

    Args:
        kind: What was checked, `policy` or `router`.
        name: As the user gave it.
        checks: Run as they are read.
        measure: Gives the cost, a NamedTuple; called where all checks hold.
        text: The cost for people.
        as_json: One JSON object in place of lines.
    """
    results = list(checks)
    failed = any(result.error is not None for result in results)
    cost = None if failed else measure()
    if as_json:
        found = [result._asdict() for result in results]
        print(json.dumps({kind: name, "checks": found, "cost": None if cost is None else cost._asdict()}))
        return int(failed)
    for result in results:
        failure = "" if result.error is None else f": {result.error}"
        print(printable(f"{'FAILED' if failure else 'ok':6}  {result.claim}{failure}"))
    if cost is not None:
        print(text(cost))
    return int(failed)
