"""Numbers of study three: routing, eviction and capacity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from milestone3_code.routing.numbers import (
    BETTER,
    PLAIN,
    ROUTED,
    Pays,
    Spread,
    main_places,
    pays,
    rows_at,
    spread,
    still_fresh,
)
from milestone3_code.routing.plan import ENGINE, MAIN_REPLICAS, RUNS
from milestone3_code.study.names import arrivals, spoken
from report.numbers.rows import Rows, values
from report.numbers.texts import number, points, rate, signed, spaced
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
MAKER = "python milestone3_code/compare_routers.py"
SETUPS = (
    "one cache",
    f"`{PLAIN}`",
    f"the optimum after {PLAIN}",
    "`session`",
    f"`{ROUTED}`",
    f"{BETTER} after {ROUTED}",
)
"""What `_rates` has of a trace."""
SURE = 0.005
"""A difference of token hit rates that counts as one."""


def routing_numbers(results: Path) -> Numbers:
    """Everything that the chapter on fleets cites.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / RUNS, MAKER)
    fleet, found, shown = rows.pick("fleet"), pays(rows.rows), main_places(rows.rows)
    if not found:
        raise ValueError(f"{rows.path} has no case whose replicas hold every request; `{MAKER}` makes some")
    return {
        "routed": ROUTED,
        "plain": PLAIN,
        "better": BETTER,
        "replicas": number(MAIN_REPLICAS),
        "seeds": number(len({row["mix_seed"] for row in fleet})),
        "rates_head": ["", *(f"{spoken(mix)}, {spaced(capacity)}" for mix, (capacity, _) in shown.items())],
        "rates": [
            list(line)
            for line in zip(SETUPS, *(_rates(rows.rows, mix, *place) for mix, place in shown.items()), strict=True)
        ],
        "routers": _routers(rows.rows, shown),
        "pays": [_pays(one) for one in found],
        "cells": number(len(found)),
        **_verdict(found),
        "ladder": _ladder(rows),
        "charged": _charged(rows),
        "tree_within": _tree_within(rows.rows, shown),
        **_stale(rows),
        "engine": _engine(results),
    }


def _text(found: Spread) -> str:
    """A rate, or a gain in points, and its interval."""
    return f"{rate(found.mean)} ({rate(found.low)} to {rate(found.high)})"


def _gain(found: Spread) -> str:
    return f"{signed(100 * found.mean, 1)} ({number(100 * found.low, 1)} to {number(100 * found.high, 1)})"


def _rates(rows: Sequence[Row], mix: str, capacity: str, replicas: int) -> list[str]:
    """One cache, then the fleet's routers and policies, at the main case of a trace."""
    plain = rows_at(rows, mix, capacity, replicas, PLAIN, "lru")
    found = [
        spread(rows_at(rows, mix, capacity, 1, PLAIN, "lru"), "token_hit_rate"),
        spread(plain, "token_hit_rate"),
        spread(plain, "optimum_hit_rate"),
        *(
            spread(rows_at(rows, mix, capacity, replicas, router, policy), "token_hit_rate")
            for router, policy in (("session", "lru"), (ROUTED, "lru"), (ROUTED, BETTER))
        ),
    ]
    return list(map(_text, found))


def _routers(rows: Sequence[Row], places: Mapping[str, tuple[str, int]]) -> Numbers:
    """Every router under LRU, where all of them ran: hit rate and how uneven its fleet is."""
    shown = [mix for mix, place in places.items() if rows_at(rows, mix, *place, "oracle", "lru")]
    chosen = [row for row in rows if row["experiment"] == "fleet" and row.get("router")]
    table = []
    for router in values(chosen, "router"):
        cells = []
        for mix in shown:
            own = rows_at(rows, mix, *places[mix], router, "lru")
            cells += [_text(spread(own, "token_hit_rate")), number(spread(own, "imbalance").mean, 2)]
        table.append([f"`{router}`", *cells])
    heads = [text for mix in shown for text in (f"{spoken(mix)}, hits", "busiest")]
    return {"head": ["router", *heads], "table": table}


def _pays(one: Pays) -> list[str]:
    gains = [_gain(found) for found in (one.router, one.policy, one.policy_routed, one.optimum_less_routed)]
    return [spoken(one.mix), spaced(one.capacity), number(one.replicas), *gains]


def _verdict(found: Sequence[Pays]) -> Numbers:
    """Counts of cases, and the extremes."""
    routers = [one for one in found if one.router.mean > one.policy.mean]
    beaten = [one for one in found if one.optimum_less_routed.high < 0]
    unbeaten = [one for one in found if one.optimum_less_routed.low > 0]
    policies = [one for one in found if one.policy_routed.low > 0 and one.policy_routed.mean > SURE]
    best, least = (pick(found, key=lambda one: one.router.mean) for pick in (max, min))
    policy = max(found, key=lambda one: one.policy_routed.mean)
    plain = max(found, key=lambda one: one.policy.mean)
    return {
        "router_cells": number(len(routers)),
        "router_always": len(routers) == len(found),
        "router_first": 4 * len(routers) >= 3 * len(found),
        "beaten_cells": number(len(beaten)),
        "unbeaten": [_where(one) for one in unbeaten],
        "policy_cells": number(len(policies)),
        "policy_where": list(dict.fromkeys(f"{spoken(one.mix)} at {spaced(one.capacity)}" for one in policies)),
        "best": points(best.router.mean, 1),
        "best_where": _where(best),
        "least": points(least.router.mean, 1),
        "least_where": _where(least),
        "policy": points(policy.policy_routed.mean, 1),
        "policy_at": _where(policy),
        "plain_policy": points(plain.policy.mean, 1),
        "plain_policy_at": _where(plain),
    }


def _ladder(rows: Rows) -> list[list[str]]:
    """Shares of the prompt tokens, lost to each step, by trace and router."""
    found = [row for row in rows.pick("ladder") if not row["rejected_requests"]]
    table = []
    for mix in values(found, "mix"):
        for router in values(found, "router"):
            own = [row for row in found if (row["mix"], row["router"]) == (mix, router)]
            steps = [rate(spread([row["steps"] for row in own], name).mean) for name in own[0]["steps"]]
            table.append([spoken(mix), f"`{router}`", *steps, _text(spread(own, "token_hit_rate"))])
    return table


def _charged(rows: Rows) -> dict[str, list[str]]:
    """What each of two routers loses to routing, of the prompt tokens, by trace."""
    found = [row for row in rows.pick("ladder") if not row["rejected_requests"]]
    losses = {}
    for router in (PLAIN, ROUTED):
        own = {mix: [r for r in found if (r["mix"], r["router"]) == (mix, router)] for mix in values(found, "mix")}
        losses[router] = [
            f"{rate(spread([r['steps'] for r in rows_of], 'routing').mean)} ({spoken(mix)})"
            for mix, rows_of in own.items()
        ]
    return losses


def _stale(rows: Rows) -> Numbers:
    """How late events may be, in seconds, and what the latest delay costs."""
    fresh = still_fresh(rows.rows, ROUTED)
    stale = [row for row in rows.pick("stale", router=ROUTED) if not row["rejected_requests"]]
    latest = max(values(stale, "delay_ms"))
    own = [row for row in stale if row["delay_ms"] == latest]
    costs = {
        mix: spread([row for row in own if row["mix"] == mix], "gain_over_fresh").mean for mix in values(own, "mix")
    }
    return {
        "fresh": [f"{number(delay / 1000, 1)} s ({spoken(mix)})" for mix, delay in fresh.items()],
        "latest": number(latest / 1000),
        "late_costs": [f"{points(cost, 1)} ({spoken(mix)})" for mix, cost in costs.items()],
    }


def _tree_within(rows: Sequence[Row], shown: Mapping[str, tuple[str, int]]) -> str:
    """How far the index of what was sent is from that of events, at most, where both ran."""
    apart = []
    for mix, place in shown.items():
        tree, routed = (rows_at(rows, mix, *place, router, "lru") for router in ("prefix_tree", ROUTED))
        if tree:
            apart.append(abs(spread(tree, "token_hit_rate").mean - spread(routed, "token_hit_rate").mean))
    return points(max(apart), 1).lstrip("+")


def _engine(results: Path) -> Numbers | None:
    """The engine's hit rates and times, and what its ladder charges to routing, policy, schedule and preemption."""
    if not (results / ENGINE).is_file():
        return None
    found = Rows(results / ENGINE, MAKER).pick("fleet_engine")
    table = []
    for row in found:
        cells = [_text(spread([row], "token_hit_rate")), number(row["ttft_ms_p50"]), number(row["ttft_ms_p99"])]
        steps = [rate(row["steps"][name]) for name in ("routing", "policy", "schedule", "preemption")]
        table.append([spoken(row["mix"]), f"`{row['router']}`", f"`{row['policy']}`", *cells, *steps])
    by_cell = {(row["mix"], row["router"], row["policy"]): row for row in found}
    ttft = []
    for mix in values(found, "mix"):
        plain, routed = (by_cell[mix, router, "lru"]["ttft_ms_p50"] for router in (PLAIN, ROUTED))
        ttft.append(f"from {number(plain)} to {number(routed)} ms ({spoken(mix)})")
    return {
        "table": table,
        "ttft": ttft,
        "device": found[0]["device"].upper(),
        "arrivals": arrivals(found[0]),
        "capacity": spaced(found[0]["capacity"]),
    }


def _where(one: Pays) -> str:
    return f"{spoken(one.mix)}, {spaced(one.capacity)}, {number(one.replicas)} replicas"
