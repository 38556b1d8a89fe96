"""What study one runs, as data."""

from collections.abc import Iterator, Sequence

from milestone2_code.study.study import ORACLE, EnginePoint, Point
from milestone2_code.study.workload import Pattern

WORKLOADS = ("single", "multi")
SHARES = (0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, None)
"""Capacities as shares of the working set; None: unlimited."""
BLOCK_SIZES = (8, 16, 32, 64, 128, 256, 512)
SEEDS = (0, 1, 2)
PATTERNS = tuple(
    Pattern(rate, think_s, seed)
    for rate in (0.25, 1.0, 4.0, 16.0)
    for think_s in (10.0, 60.0, 300.0)
    for seed in SEEDS
    if rate * think_s <= 300  # more are tens of thousands of sessions until conversations of all ages are there
)
QUICK_PATTERN = Pattern(sessions_per_s=0.25)
QUICK_POLICIES = ("lru", "arc", "hybrid", "belady")
"""Each is compiled once on a machine, which takes longer than a quick run's rows."""
POLICY_SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)


def points(policies: Sequence[str], quick: bool) -> Iterator[Point]:
    """All runs but those of the engine, those that share their blocks next to each other.

    Args:
        policies: names of eviction policies.
        quick: fewer of everything.
    """
    shares, pattern = ((0.1, None), QUICK_PATTERN) if quick else (SHARES, Pattern())
    for workload in WORKLOADS:
        for share in shares:
            yield Point("capacity", workload, share=share, pattern=pattern)
        for share in POLICY_SHARES[1:2] if quick else POLICY_SHARES:
            for policy in (*policies, ORACLE):
                yield Point("policy", workload, share=share, policy=policy, pattern=pattern)
        yield Point("reuse", workload, pattern=pattern)
        if workload == "multi":  # the order of single requests is the same in all patterns
            for one in (QUICK_PATTERN, QUICK_PATTERN._replace(think_s=10.0)) if quick else PATTERNS:
                yield Point("arrival", workload, share=0.1, pattern=one)
        for block_size in (16, 128) if quick else BLOCK_SIZES:
            for share in shares:
                yield Point("block_size", workload, block_size, share, pattern=pattern)
        for share in (0.1, None):
            yield Point("system_prompt", workload, share=share, system_prompt=True, pattern=pattern)
        yield Point("reuse", workload, system_prompt=True, pattern=pattern)
    for workload in WORKLOADS:
        for backend in ("fast", "blockpool"):
            yield Point("agree", workload, share=0.1, backend=backend, pattern=pattern)


ENGINE = (
    EnginePoint("multi", 0.1, 64),
    EnginePoint("multi", None, 64),
    EnginePoint("multi", 0.1, None),
    EnginePoint("multi", None, None),
    EnginePoint("single", 0.1, 64),
    EnginePoint("single", None, 64),
    EnginePoint("single", 0.1, None),
    EnginePoint("single", None, None),
    EnginePoint("single", 0.1, 1),
)
"""The longest first. Without arrivals the engine always has so many requests, and its tokens a second are its speed;
with arrivals they are how many sessions are configured."""
QUICK_ENGINE = tuple(point._replace(pattern=QUICK_PATTERN) for point in (ENGINE[0], ENGINE[-1]))
