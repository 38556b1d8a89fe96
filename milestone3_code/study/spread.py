"""A mean over the seeds of a mix, its interval, and how often one of two is ahead.

The interval is Student's, of the mean over seeds: mean +- t * s / sqrt(n). Of two policies the differences are taken
seed by seed, as both served the same requests. The sign test asks how likely it is that so uneven a number of seeds has
one of the two ahead, were both as good: two-sided, exact, seeds without a difference left out.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t, two-sided 95 %, by degrees of freedom."""


class Spread(NamedTuple):
    """A mean and its 95 % interval; of one value without one of its own they are the same."""

    mean: float
    low: float
    high: float

    def percent(self, digits: int = 1) -> str:
        """In per cent, or points."""
        return f"{100 * self.mean:.{digits}f} ({100 * self.low:.{digits}f} to {100 * self.high:.{digits}f})"

    def fields(self, name: str) -> dict[str, float | list[float]]:
        """As a row has them."""
        return {name: round(self.mean, 6), f"{name}_ci95": [round(self.low, 6), round(self.high, 6)]}


def over(found: Sequence[float]) -> Spread:
    """The mean of several values."""
    count = len(found)
    mean = sum(found) / count
    if count == 1:
        return Spread(mean, mean, mean)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in found) / (count - 1))
    half = _T.get(count - 1, 1.96) * deviation / math.sqrt(count)
    return Spread(mean, mean - half, mean + half)


def sign_test(differences: Sequence[float]) -> float:
    """The two-sided p of the sign test; 1 where nothing differs."""
    ahead, behind = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    count = ahead + behind
    tail = sum(math.comb(count, k) for k in range(min(ahead, behind) + 1)) / 2**count
    return round(min(1.0, 2 * tail), 6)
