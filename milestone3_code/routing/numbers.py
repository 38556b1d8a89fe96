"""What the rows of study three come to: means over the seeds of a mix, each with its interval.

The interval is that of study/spread.py. Of a trace of hash ids there is one row, and its own interval counts.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from milestone3_code.routing.plan import ENGINE, MAIN_CAPACITY, MAIN_REPLICAS, RUNS
from milestone3_code.study.drawing import values
from milestone3_code.study.spread import Spread, over
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick, read_made_rows

MAKER = "milestone3_code/compare_routers.py"
ROUTED, PLAIN, BETTER = "kv_events", "round_robin", "hybrid"
"""The better router and the worse one, and the better policy, of which the study speaks."""


class Pays(NamedTuple):
    """What a better router and a better policy are worth at a capacity and a number of replicas: token hit rates."""

    mix: str
    capacity: str
    replicas: int
    router: Spread
    """ROUTED over PLAIN, both under LRU."""
    policy: Spread
    """BETTER over LRU, both after PLAIN."""
    policy_routed: Spread
    """BETTER over LRU, both after ROUTED."""
    optimum_less_routed: Spread
    """The optimum in each replica after PLAIN, less LRU after ROUTED: below 0 no policy makes up for the router. Of a
    trace of hash ids without an interval."""


def load(results: Path, name: str = RUNS) -> list[Row]:
    """The rows of a file.

    Raises:
        ValueError: there is none.
    """
    return read_made_rows(results / name, MAKER)


def load_engine(results: Path) -> list[Row]:
    """The rows of the engine; none where it was not run."""
    return load(results, ENGINE) if (results / ENGINE).is_file() else []


def spread(rows: Sequence[Row], field: str) -> Spread:
    """A field over the rows of all seeds.

    Raises:
        ValueError: there is no row.
    """
    if not rows:
        raise ValueError(f"no row with {field}; first run {MAKER} to its end")
    if len(rows) == 1:
        value = rows[0][field]
        low, high = rows[0].get(f"{field}_ci95", (value, value))
        return Spread(value, low, high)
    return over([row[field] for row in rows])


def rows_at(rows: Sequence[Row], mix: str, capacity: str, replicas: int, router: str, policy: str) -> list[Row]:
    """The rows of `fleet` of a case, one for each seed; one replica has no router."""
    wanted = {"mix": mix, "capacity": capacity, "replicas": replicas, "policy": policy}
    found = pick(rows, "fleet", **wanted)
    return [row for row in found if row.get("router") == (router if replicas > 1 else None)]


def is_served(rows: Sequence[Row], mix: str, capacity: str, replicas: int) -> bool:
    """Whether each replica holds the largest request: else hits are of requests that were never served."""
    found = pick(rows, "fleet", mix=mix, capacity=capacity, replicas=replicas)
    return bool(found) and not any(row["rejected_requests"] for row in found)


def pays(rows: Sequence[Row]) -> list[Pays]:
    """Each case with several replicas in which every request was served."""
    fleet = pick(rows, "fleet")
    found = []
    for mix in values(fleet, "mix"):
        own = [row for row in fleet if row["mix"] == mix]
        for capacity in values(own, "capacity"):
            for replicas in values(own, "replicas"):
                place = mix, capacity, replicas
                if replicas > 1 and is_served(own, *place) and rows_at(own, *place, ROUTED, BETTER):
                    found.append(_pays(own, *place))
    return found


def _pays(rows: Sequence[Row], mix: str, capacity: str, replicas: int) -> Pays:
    plain, routed = (rows_at(rows, mix, capacity, replicas, router, "lru") for router in (PLAIN, ROUTED))
    better, better_routed = (rows_at(rows, mix, capacity, replicas, router, BETTER) for router in (PLAIN, ROUTED))
    return Pays(
        mix,
        capacity,
        replicas,
        router=spread(routed, "gain_over_round_robin"),
        policy=spread(better, "gain_over_lru"),
        policy_routed=spread(better_routed, "gain_over_lru"),
        optimum_less_routed=over(
            [one["optimum_hit_rate"] - two["token_hit_rate"] for one, two in zip(plain, routed, strict=True)]
        ),
    )


def main_places(rows: Sequence[Row]) -> dict[str, tuple[str, int]]:
    """For each trace the capacity and the replicas that tables show: the study's main ones if all requests are served
    there, else the smallest capacity at which they are; a trace that has none is left out."""
    found = {}
    for mix in values(pick(rows, "fleet"), "mix"):
        own = values(pick(rows, "fleet", mix=mix, replicas=MAIN_REPLICAS), "capacity")
        served = [capacity for capacity in own if is_served(rows, mix, capacity, MAIN_REPLICAS)]
        if served:
            found[mix] = (MAIN_CAPACITY if MAIN_CAPACITY in served else served[0], MAIN_REPLICAS)
    return found


def still_fresh(rows: Sequence[Row], router: str) -> dict[str, float]:
    """For each trace the longest delay of events, in ms, up to which a router loses less than a point."""
    stale = [row for row in pick(rows, "stale", router=router) if not row["rejected_requests"]]
    found = {}
    for mix in values(stale, "mix"):
        own = [row for row in stale if row["mix"] == mix]
        longest = 0.0
        for delay in values(own, "delay_ms"):
            if spread([row for row in own if row["delay_ms"] == delay], "gain_over_fresh").mean < -0.01:
                break
            longest = delay
        found[mix] = longest
    return found
