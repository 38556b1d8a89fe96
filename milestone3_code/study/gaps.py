"""The share of the gap between LRU and the optimum that a policy closes, by mix and capacity, out of the rows of mixes.

Share = sum of gains over LRU / sum of gaps to the optimum, in hit tokens, over the mixes and capacities that are asked
for. Of a mix that was built under several seeds it is the mean over these, each taken whole.
"""

from collections.abc import Sequence
from typing import NamedTuple

from milestone3_code.routing.numbers import Spread, over
from milestone3_code.study.drawing import shares, values
from vllm_sim.replay.rows import Row
from vllm_sim.sweep.results import pick

GAP_SHARES = ("5%", "10%", "20%", "50%")
ALL = "all"


class Gap(NamedTuple):
    """Of one policy, or of none, in some cells."""

    closed: Spread
    """The share of the gap that it closes."""
    points: Spread
    """The gap itself: token hit rate of the optimum over LRU's, the mean over mixes and capacities."""


class Cells:
    """The rows of the mixes under one block size."""

    def __init__(self, rows: Sequence[Row], block_size: int):
        """Reads them.

        Args:
            rows: of study two.
            block_size: of those that count.
        """
        found = shares(pick(rows, "mix", block_size=block_size))
        self.mixes = values(pick(rows, "mix", block_size=block_size), "mix")
        self.capacities = [capacity for capacity in values(found, "capacity") if capacity in GAP_SHARES]
        self.policies = [name for name in values(found, "policy") if name not in ("lru", "belady")]
        self.seeds = list(dict.fromkeys(row.get("mix_seed", 0) for row in found))
        self._rows = {(row["mix"], row["capacity"], row["policy"], row.get("mix_seed", 0)): row for row in found}

    def gap(self, policy: str, mix: str = ALL, capacity: str | None = None) -> Gap:
        """What a policy closes.

        Args:
            policy: its name.
            mix: or ALL.
            capacity: of GAP_SHARES; None: over all of them.

        Raises:
            ValueError: a row of the policy, of LRU or of the optimum is missing.
        """
        mixes = self.mixes if mix == ALL else [mix]
        capacities = self.capacities if capacity is None else [capacity]
        closed, points = [], []
        for seed in self.seeds:
            gain = gap = 0
            rates = []
            for place in ((one, at) for one in mixes for at in capacities):
                own, lru, best = (self._row(*place, name, seed) for name in (policy, "lru", "belady"))
                gain += own["hit_tokens"] - lru["hit_tokens"]
                gap += best["hit_tokens"] - lru["hit_tokens"]
                rates.append(best["token_hit_rate"] - lru["token_hit_rate"])
            closed.append(gain / gap if gap else 0.0)
            points.append(sum(rates) / len(rates))
        return Gap(over(closed), over(points))

    def _row(self, mix: str, capacity: str, policy: str, seed: int) -> Row:
        try:
            return self._rows[mix, capacity, policy, seed]
        except KeyError:
            where = f"{mix} at {capacity} under {policy}, seed {seed}"
            raise ValueError(f"no row of {where}; first run milestone3_code/compare_policies.py to its end") from None
