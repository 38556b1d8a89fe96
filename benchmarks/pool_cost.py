"""What a policy costs in vLLM's real block pool, for the report: writes results/pool_cost.json.

The measurements are those of `make bench` (benchmarks/test_eviction.py): the process's own time for allocating, caching
and freeing a block in a full pool, and for one hit of it, the best of several runs in turns, against upstream's own
queue in the same run; and the memory of a further cached block.

usage: python -m benchmarks.pool_cost       in the project's folder and environment
"""

import json
import os
from pathlib import Path

from benchmarks.test_eviction import CAPACITY, LIVE, REPEATS, bytes_per_block, pool_seconds, short

OUT = Path(__file__).parents[1] / "results" / "pool_cost.json"


def main() -> None:
    seconds: dict[str | None, float] = dict.fromkeys([None, *LIVE], 1.0)
    for policy in LIVE:
        pool_seconds(policy)
        bytes_per_block(policy)
    for _ in range(REPEATS):
        seconds = {policy: min(before, pool_seconds(policy)) for policy, before in seconds.items()}
    upstream = seconds.pop(None)
    policies = [
        {
            "policy": short(str(policy)),
            "microseconds_a_block": round(value * 1e6, 3),
            "times_upstream": round(value / upstream, 3),
            "bytes_a_block": round(bytes_per_block(str(policy))),
        }
        for policy, value in seconds.items()
    ]
    found = {"cores": os.cpu_count(), "capacity_blocks": CAPACITY, "runs": REPEATS}
    found |= {"upstream_microseconds_a_block": round(upstream * 1e6, 3), "policies": policies}
    OUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(OUT.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
