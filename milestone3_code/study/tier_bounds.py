"""The rows of one cache of both sizes under the optimum, which two tiers are compared with."""

from collections.abc import Iterable

from milestone3_code.study.tiers import NONE
from vllm_sim.replay.rows import Row


def bounds_of(rows: Iterable[Row]) -> dict[tuple[str, float], Row]:
    """By mix and size of both memories. A size that two pairs of tiers have is run once."""
    return {(row["mix"], both(row)): row for row in rows if row["bound"]}


def both(row: Row) -> float:
    """The size of both memories, in per cent of the working set."""
    return sum(float(row[name].removesuffix("%")) for name in ("gpu", "cpu") if row[name] != NONE)
