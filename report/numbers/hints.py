"""Numbers of what a client's hint is worth, by what is said, and to whom."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milestone3_code.hints.numbers import (
    BAR,
    POLICIES,
    Case,
    cached,
    cases,
    client_gain,
    closed,
    closed_more,
    of_case,
    words,
    workload_gains,
)
from milestone3_code.hints.plan import NOTHING
from milestone3_code.routing.numbers import Spread
from milestone3_code.study.names import arrivals
from report.numbers.rows import Rows, values
from report.numbers.texts import THIN, number, percent, rate, signed, spaced
from vllm_sim.replay.rows import Row

Numbers = dict[str, Any]
MAKER = "python milestone3_code/compare_hints.py"
RIGHT, LEARNER, BELIEVER = "right", "hybrid", "ttl"
CLIENTS = ("speaking", "silent")


def hints_numbers(results: Path) -> Numbers:
    """Everything that the chapter on hints cites.

    Raises:
        ValueError: a row is missing or is no result.
    """
    rows = Rows(results / "hints.jsonl", MAKER).pick("hints")
    fast = cached(rows)
    best, other = sorted(
        (Case(policy, RIGHT) for policy in (LEARNER, BELIEVER)), key=lambda one: -closed(rows, one).mean
    )
    silent = Case(LEARNER)
    by_mix = {mix: closed(rows, best, mix).mean for mix in values(fast, "mix")}
    least = min(by_mix, key=lambda mix: by_mix[mix])
    return {
        "mixes": number(len(by_mix)),
        "seeds": number(len(values(fast, "mix_seed"))),
        "capacities": _list([spaced(text) for text in fast[0]["capacities"]]),
        "bar": percent(BAR, 0),
        "reached": closed(rows, best).low >= BAR,
        "best": best.policy,
        "other": other.policy,
        "best_closed": _share(closed(rows, best)),
        "other_closed": _share(closed(rows, other)),
        "silent_closed": _share(closed(rows, silent)),
        "more": _share(closed_more(rows, Case(LEARNER, RIGHT), silent)),
        "least_mix": least,
        "least_closed": percent(by_mix[least]),
        "policies": [f"`{policy}`" for policy in POLICIES],
        "table": _table(rows),
        "doubted": _doubted(rows),
        "clients": _clients(rows),
        "losers": _losers(rows),
        "engine": _engine(rows),
    }


def _list(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _text(found: Spread, sign: bool = False) -> str:
    """Per cent or points, and the interval."""
    low, mean, high = (100 * value for value in (found.low, found.mean, found.high))
    return f"{signed(mean, 1) if sign else number(mean, 1)} ({number(low, 1)} to {number(high, 1)})"


def _share(found: Spread) -> str:
    return f"{percent(found.mean)} ({number(100 * found.low, 1)} to {number(100 * found.high, 1)})"


def _words(rows: Sequence[Row], case: Case) -> str:
    return words(of_case(rows, case)[0]).replace("%", f"{THIN}%")


def _table(rows: Sequence[Row]) -> list[list[str]]:
    """A line for all that is said: what each policy closes of the gap."""
    found = cases(rows)
    table = []
    for text in dict.fromkeys(_words(rows, case) for case in found):
        by_policy = {case.policy: case for case in found if _words(rows, case) == text}
        table.append([text, *(_text(closed(rows, by_policy[p])) if p in by_policy else "" for p in POLICIES)])
    return table


def _doubted(rows: Sequence[Row]) -> str | None:
    """What is said where the learner closes surely more of the gap than the policy that believes."""
    pairs = [(Case(LEARNER, one.said), one) for one in cases(rows) if one.policy == BELIEVER]
    return "; ".join(_words(rows, one) for learner, one in pairs if closed_more(rows, learner, one).low > 0) or None


def _clients(rows: Sequence[Row]) -> list[list[str]]:
    """Where a share says something: what those gain who do, and the others, over silence; in points."""
    return [
        [
            case.policy,
            *(_text(client_gain(rows, case, name, "gain_over_silence_tokens"), sign=True) for name in CLIENTS),
        ]
        for case in cases(rows)
        if "by_client" in of_case(rows, case)[0]
    ]


def _losers(rows: Sequence[Row]) -> list[Numbers]:
    """Under each policy the workload that gains least by right hints of all."""
    found = []
    for policy in (BELIEVER, LEARNER):
        gains = workload_gains(rows, Case(policy, RIGHT), "gain_over_silence_tokens")
        least = min(gains, key=lambda one: one.gain.mean)
        found.append(
            {"policy": policy, "workload": least.workload, "mix": least.mix, "gain": _text(least.gain, sign=True)}
        )
    return found


def _engine(rows: Sequence[Row]) -> Numbers:
    """Mixes under vLLM's scheduler."""
    found = [row for row in rows if row["backend"] == "engine"]
    if not found:
        raise ValueError(f"no row of the engine in the study of hints; `{MAKER}` makes them")
    table, heard = [], []
    for row in found:
        times = [number(row[name], 1) for name in ("ttft_ms_p50", "ttft_ms_p99")]
        table.append([row["mix"], f"`{row['policy']}`", words(row), rate(row["token_hit_rate"]), *times])
    for mix in values(found, "mix"):
        own = {(row["policy"], row["said"]): rate(row["token_hit_rate"]) for row in found if row["mix"] == mix}
        heard.append({"mix": mix, "lru": own["lru", NOTHING], BELIEVER: own[BELIEVER, RIGHT]})
        heard[-1][LEARNER] = own.get((LEARNER, RIGHT), "")
    first = found[0]
    return {
        "capacity": spaced(first["capacities"][0]),
        "arrivals": arrivals(first),
        "device": first["device"].upper(),
        "table": table,
        "heard": heard,
    }
