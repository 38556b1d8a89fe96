"""A service level as an operator writes it: `ttft_p99<=1s,tpot_p99<=50ms`, and what a run's row makes of it."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from vllm_sim.replay.summary import SHARES

METRICS = ("ttft", "tpot", "e2e")
_TERM = re.compile(r"(\w+?)_p(\d+)<=(\d+(?:\.\d+)?)(ms|s)")
_UNITS = {"ms": 1.0, "s": 1000.0}
ALLOWED = f"{', '.join(METRICS)} with _p{', _p'.join(map(str, SHARES))}, then <= and a time, as in ttft_p99<=1s"


class Bound(NamedTuple):
    """One term of a service level."""

    metric: str
    share: int
    """Percentile."""
    most_ms: float

    @property
    def field(self) -> str:
        """Of a row."""
        return f"{self.metric}_ms_p{self.share}"

    def __str__(self) -> str:
        return f"{self.metric}_p{self.share}<={self.most_ms:g}ms"


def parse_level(text: str) -> tuple[Bound, ...]:
    """The terms of a service level.

    Raises:
        ValueError: a term is none; names it and what is allowed.
    """
    bounds = []
    for term in text.replace(" ", "").split(","):
        match = _TERM.fullmatch(term)
        if match is None or match[1] not in METRICS or int(match[2]) not in SHARES or float(match[3]) == 0:
            raise ValueError(f"service level has {term!r}; allowed: {ALLOWED}")
        bounds.append(Bound(match[1], int(match[2]), float(match[3]) * _UNITS[match[4]]))
    fields = [bound.field for bound in bounds]
    if len(set(fields)) < len(fields):
        raise ValueError(f"service level {text!r} names a metric twice; allowed: each once")
    return tuple(bounds)


def failures(level: tuple[Bound, ...], row: Mapping[str, Any]) -> list[str]:
    """What of a row does not meet a level, a text each; nothing where it does.

    A percentile that no request has (tpot, where each generates one token) is met.
    """
    found = []
    if row.get("rejected_requests"):
        found.append(f"{row['rejected_requests']:,} requests need more blocks than there are")
    for bound in level:
        value = row.get(bound.field)
        if value is not None and value > bound.most_ms:
            found.append(f"{bound.metric}_p{bound.share} is {value:,.1f} ms, wanted {bound.most_ms:,.1f}")
    return found


def worst(level: tuple[Bound, ...], row: Mapping[str, Any]) -> float:
    """The largest of value / bound: 1 or less where the level is met."""
    if row.get("rejected_requests"):
        return float("inf")
    return max(((row.get(bound.field) or 0.0) / bound.most_ms for bound in level), default=0.0)
