"""What `policy check` and `router check` print: what must hold, and then the cost of what held."""

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from vllm_sim.terminal import printable

if TYPE_CHECKING:
    from vllm_sim.eviction.check import CheckResult


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
