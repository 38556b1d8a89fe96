"""Distributions of whole numbers, as a configuration gives them in a table with a `kind`:

fixed      value               always the same
uniform    low, high           every whole number from low to high alike
lognormal  median, sigma       exp(N(ln median, sigma)), rounded; what lies outside of low to high is set to
           [low, high]         the nearer of them
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vllm_sim.workloads.tables import TomlTable, choice, number, whole

MAX = 10**9
KINDS = ("fixed", "uniform", "lognormal")


class Distribution(Protocol):
    """Draws whole numbers."""

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        """An array of shape (count,)."""


@dataclass(frozen=True, slots=True)
class Fixed:
    value: int

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        return np.full(count, self.value, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Uniform:
    low: int
    high: int
    """The largest number that is drawn."""

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        return generator.integers(self.low, self.high, size=count, endpoint=True)


@dataclass(frozen=True, slots=True)
class LogNormal:
    median: float
    sigma: float
    """Standard deviation of the logarithm."""
    low: int = 0
    high: int = MAX

    def draw(self, generator: np.random.Generator, count: int) -> NDArray[np.int64]:
        drawn = self.median * np.exp(self.sigma * generator.standard_normal(count))
        return np.clip(np.rint(drawn), self.low, self.high).astype(np.int64)


def read_distribution(table: TomlTable, least: int) -> Distribution:
    """A distribution of numbers that are `least` or more.

    Raises:
        ConfigError: a key or value that is not allowed.
    """
    kind = table.need("kind", choice(*KINDS))
    result: Distribution
    if kind == "fixed":
        result = Fixed(table.need("value", whole(least, MAX)))
    elif kind == "uniform":
        low = table.need("low", whole(least, MAX))
        result = Uniform(low, table.need("high", whole(low, MAX)))
    else:
        low = table.get("low", whole(least, MAX), least)
        result = LogNormal(
            table.need("median", number(0, MAX, above=True)),
            table.need("sigma", number(0, 5)),
            low,
            table.get("high", whole(low, MAX), MAX),
        )
    table.close()
    return result


def get_distribution(table: TomlTable, key: str, least: int, default: Distribution) -> Distribution:
    """The distribution under a key of a table, or the default."""
    inner = table.table(key)
    return default if inner is None else read_distribution(inner, least)
