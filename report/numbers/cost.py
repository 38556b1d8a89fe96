"""Numbers of what policies cost in vLLM's real block pool, out of results/pool_cost.json."""

import json
from pathlib import Path
from typing import Any

from report.numbers.texts import number


def cost_numbers(results: Path) -> dict[str, Any]:
    """What benchmarks/pool_cost.py has measured."""
    found = json.loads((results / "pool_cost.json").read_text(encoding="utf-8"))
    rows = found["policies"]
    upstream = found["upstream_microseconds_a_block"]
    lru, hybrid = (next(row for row in rows if row["policy"] == name) for name in ("lru", "hybrid"))
    interface, own = (
        lru["microseconds_a_block"] - upstream,
        hybrid["microseconds_a_block"] - lru["microseconds_a_block"],
    )
    table = [["upstream's queue", number(upstream, 2), "", ""]]
    for row in rows:
        cost = (number(row["microseconds_a_block"], 2), number(row["times_upstream"], 2), number(row["bytes_a_block"]))
        table.append([f"`{row['policy']}`", *cost])
    return {
        "table": table,
        "cores": number(found["cores"]),
        "capacity": number(found["capacity_blocks"]),
        "runs": number(found["runs"]),
        "hybrid": number(hybrid["microseconds_a_block"], 2),
        "upstream": number(upstream, 2),
        "bytes": number(hybrid["bytes_a_block"]),
        "mostly_interface": own < interface,
        "most_bytes": hybrid["bytes_a_block"] == max(row["bytes_a_block"] for row in rows),
    }
