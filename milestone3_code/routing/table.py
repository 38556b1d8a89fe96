"""The tables of study three in docs/results.md, made from its rows."""

from collections.abc import Sequence
from pathlib import Path

from milestone3_code.routing.numbers import (
    BETTER,
    PLAIN,
    ROUTED,
    Pays,
    Spread,
    load,
    load_engine,
    main_places,
    pays,
    rows_at,
    spread,
    still_fresh,
)
from milestone3_code.study.names import arrivals, spoken
from vllm_sim.replay.rows import Row


def section(results: Path) -> str:
    """Rates and gains at the main case of each trace, what pays where, stale events, and the engine, in Markdown.

    Raises:
        ValueError: a row comes from a quick run, or one that is needed is not there.
    """
    rows = load(results)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_routers.py without --quick")
    parts = [_main(rows), _pays(pays(rows)), _stale(rows)]
    engine = load_engine(results)
    return "\n\n".join([*parts, *([_engine(engine)] if engine else [])])


def finding(results: Path) -> tuple[str, str]:
    """What a better router is worth, and a better policy, each in the main case where it is worth most; where.

    Raises:
        ValueError: the rows are not results.
    """
    rows = load(results)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_routers.py without --quick")
    shown = main_places(rows)
    cells = [one for one in pays(rows) if (one.capacity, one.replicas) == shown.get(one.mix)]
    gains = "; ".join(f"{spoken(one.mix)} {_signed(one.router)} and {_signed(one.policy)}" for one in cells)
    places = ", ".join(f"{spoken(one.mix)} {one.capacity}" for one in cells)
    return (
        f"in points of token hit rate: {gains}",
        f"{cells[0].replicas} replicas; `{ROUTED}` in place of `{PLAIN}`, and `{BETTER}` in place of LRU after "
        f"`{PLAIN}`; capacity, of the working set: {places}",
    )


def _signed(found: Spread) -> str:
    """Points with a sign."""
    return f"{round(100 * found.mean, 1) + 0.0:+.1f}"


def _main(rows: Sequence[Row]) -> str:
    """The rates of each trace at its main case."""
    lines = [
        f"| token hit rate, % | capacity | one cache | `{PLAIN}` | optimum after it | `session` | `{ROUTED}` "
        f"| `{ROUTED}`, `{BETTER}` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for mix, place in main_places(rows).items():
        plain = rows_at(rows, mix, *place, PLAIN, "lru")
        found = [
            spread(rows_at(rows, mix, place[0], 1, PLAIN, "lru"), "token_hit_rate"),
            spread(plain, "token_hit_rate"),
        ]
        found.append(spread(plain, "optimum_hit_rate"))
        found += [
            spread(rows_at(rows, mix, *place, router, policy), "token_hit_rate")
            for router, policy in (("session", "lru"), (ROUTED, "lru"), (ROUTED, BETTER))
        ]
        lines.append(f"| {spoken(mix)} | {place[0]} | {' | '.join(one.percent() for one in found)} |")
    return "\n".join(lines)


def _pays(found: Sequence[Pays]) -> str:
    """Where the router is worth more than the policy."""
    routers = sum(one.router.mean > one.policy.mean for one in found)
    beaten = sum(one.optimum_less_routed.high < 0 for one in found)
    unbeaten = "; ".join(_where(one) for one in found if one.optimum_less_routed.low > 0)
    but = f" It hits more in {unbeaten}." if unbeaten else ""
    after = [one for one in found if one.policy_routed.low > 0]
    least, most = (pick_(found, key=lambda one: one.router.mean) for pick_ in (min, max))
    best = max(found, key=lambda one: one.policy_routed.mean)
    return (
        f"In {routers} of {len(found)} cases (trace, capacity, 2 replicas or more) `{ROUTED}` in place of `{PLAIN}` is "
        f"worth more than `{BETTER}` in place of LRU: {_points(least)} to {_points(most)} points. In {beaten} even the "
        f"optimum after `{PLAIN}` hits less than LRU after `{ROUTED}`.{but} After `{ROUTED}` the better policy is "
        f"surely worth something in {len(after)} cases, at most {_signed(best.policy_routed)} points "
        f"({_where(best)})."
    )


def _points(one: Pays) -> str:
    return f"{_signed(one.router)} ({_where(one)})"


def _where(one: Pays) -> str:
    return f"{spoken(one.mix)}, {one.capacity}, {one.replicas} replicas"


def _stale(rows: Sequence[Row]) -> str:
    """How late events may be; an index of what was sent needs none."""
    fresh = ", ".join(f"{spoken(mix)} {delay / 1000:g} s" for mix, delay in still_fresh(rows, ROUTED).items())
    without = ", ".join(
        f"{spoken(mix)} {spread(rows_at(rows, mix, *place, 'prefix_tree', 'lru'), 'token_hit_rate').percent()} %"
        for mix, place in main_places(rows).items()
        if mix in still_fresh(rows, ROUTED) and rows_at(rows, mix, *place, "prefix_tree", "lru")
    )
    return (
        f"KV events may be so late until `{ROUTED}` loses more than a point of token hit rate: {fresh}. `prefix_tree` "
        f"knows what it sent where, and needs no events: {without or 'not run'}."
    )


def _engine(rows: Sequence[Row]) -> str:
    first = rows[0]
    lines = [
        f"The same in vLLM's engines on one virtual clock: {first['replicas']} replicas, `roofline` of one "
        f"{first['device'].upper()} each, {first['capacity']} of the working set in all, {arrivals(first)}, "
        "first seed.",
        "",
        "| engine | router | policy | token hit rate, % | TTFT p50, ms | TTFT p99, ms | busiest replica / mean |",
        "|---|---|---|---|---|---|---|",
    ]
    mixes = [row["mix"] for row in rows]
    points = dict.fromkeys((row["mix"], row["router"], row["policy"]) for row in rows)
    for mix, router, policy in sorted(points, key=lambda point: mixes.index(point[0])):
        own = [row for row in rows if (row["mix"], row["router"], row["policy"]) == (mix, router, policy)]
        times = [spread(own, name) for name in ("ttft_ms_p50", "ttft_ms_p99")]
        cells = [spread(own, "token_hit_rate").percent(), *(f"{one.mean:,.0f}" for one in times)]
        cells.append(f"{spread(own, 'imbalance').mean:.2f}")
        lines.append(f"| {mix} | `{router}` | `{policy}` | {' | '.join(cells)} |")
    return "\n".join(lines)
