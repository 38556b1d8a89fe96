"""What the rows of the study of hints come to: means over the seeds of the mixes, each with its interval.

The share of the gap that is closed is, under each seed, the sum of gains over the sum of gaps, over the capacities, and
over the mixes where none is named. Intervals are those of study three, Student's, over the seeds; differences are taken
under each seed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from milestone3_code.hints.plan import NOTHING
from milestone3_code.hints.rows import FILE
from milestone3_code.routing.numbers import Spread, over
from milestone3_code.study.drawing import values
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import read_made_rows

MAKER = "milestone3_code/compare_hints.py"
BAR = 0.6
"""Of the gap: what hints were to close."""
POLICIES = ("ttl", "hybrid", "priority")
WORDS = {"end": "end", "next": "next turn", "retention": "priorities"}


class Case(NamedTuple):
    """A policy, and what clients say."""

    policy: str
    said: str = NOTHING


class Loss(NamedTuple):
    """What a workload of a mix gains or loses, in token hit rate."""

    mix: str
    workload: str
    gain: Spread


def load(results: Path) -> list[Row]:
    """The rows.

    Raises:
        ValueError: there are none, or they are of a quick run.
    """
    rows = read_made_rows(results / FILE, MAKER)
    if any(row["quick"] for row in rows):
        raise ValueError("rows of a quick run are no results; run compare_hints.py without --quick")
    return rows


def cached(rows: Sequence[Row]) -> list[Row]:
    """Those of the backend `fast`.

    Raises:
        ValueError: there is none.
    """
    found = [row for row in rows if row["backend"] == "fast"]
    if not found:
        raise ValueError(f"no row of the backend fast; run {MAKER} to its end")
    return found


def of_case(rows: Sequence[Row], case: Case) -> list[Row]:
    """Its rows.

    Raises:
        ValueError: there is none.
    """
    found = [row for row in cached(rows) if case_of(row) == case]
    if not found:
        raise ValueError(f"no row of {case.policy}, {case.said}; run {MAKER} to its end")
    return found


def case_of(row: Row) -> Case:
    """The case of a row."""
    return Case(row["policy"], row["said"])


def cases(rows: Sequence[Row]) -> list[Case]:
    """Of the backend `fast`, in the order of the rows."""
    return list(dict.fromkeys(map(case_of, cached(rows))))


def words(row: Row) -> str:
    """What the clients of a row say."""
    if not row["kinds"]:
        return "nothing"
    parts = [" and ".join(WORDS[kind] for kind in row["kinds"])]
    parts += [f"{row['share']:.0%} of the clients"] if row["share"] < 1 else []
    parts += [f"times off, sigma {row['noise']:g}"] if row["noise"] else []
    parts += [f"{row['lies']:.0%} lies"] if row["lies"] else []
    return ", ".join(parts)


def closed(rows: Sequence[Row], case: Case, mix: str | None = None) -> Spread:
    """The share of the gap that a case closes, of a mix or of all."""
    return over(_by_seed(_of_mix(of_case(rows, case), mix), _closed))


def closed_more(rows: Sequence[Row], case: Case, than: Case) -> Spread:
    """What a case closes of the gap over another one."""
    own, other = (_by_seed(of_case(rows, one), _closed) for one in (case, than))
    return over([a - b for a, b in zip(own, other, strict=True)])


def client_gain(rows: Sequence[Row], case: Case, client: str, field: str) -> Spread:
    """What clients gain in token hit rate.

    Args:
        rows: of the study.
        case: one in which a share of the clients says something.
        client: `speaking` or `silent`.
        field: `gain_tokens` or `gain_over_silence_tokens`.
    """
    return over(_by_seed(of_case(rows, case), lambda own: _points([row["by_client"][client] for row in own], field)))


def workload_gains(rows: Sequence[Row], case: Case, field: str) -> list[Loss]:
    """What each workload of each mix gains in token hit rate; `field` as above."""
    found = of_case(rows, case)
    gains = []
    for mix in values(found, "mix"):
        own = _of_mix(found, mix)
        for name in own[0]["by_workload"]:
            parts = [_points([row["by_workload"][name]], field) for row in own]
            gains.append(Loss(mix, name, over(parts)))
    return gains


def _of_mix(rows: Sequence[Row], mix: str | None) -> list[Row]:
    return [row for row in rows if mix is None or row["mix"] == mix]


def _by_seed(rows: Sequence[Row], make: Callable[[list[Row]], float]) -> list[float]:
    seeds = values(rows, "mix_seed")
    return [make([row for row in rows if row["mix_seed"] == seed]) for seed in seeds]


def _closed(rows: list[Row]) -> float:
    gain, gap = (sum(sum(row[name]) for row in rows) for name in ("gain_tokens", "gap_tokens"))
    return gain / max(1, gap)


def _points(parts: Sequence[dict[str, int]], field: str) -> float:
    return sum(part[field] for part in parts) / max(1, sum(part["prompt_tokens"] for part in parts))
