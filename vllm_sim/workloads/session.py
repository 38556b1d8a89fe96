"""Sessions before they have a time, and the random numbers they are made with."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from vllm_sim.trace.record import Record


class Session(NamedTuple):
    """Requests that arrive one after the other; one at least."""

    id: str | int | None
    """None: not a session but requests that arrive together (a batch, or a single one)."""
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Seeds:
    """Random numbers of one source: they depend on the workload's seed and the source's name, and on nothing else."""

    seed: int
    source: str

    def generator(self, purpose: str, number: int = 0) -> np.random.Generator:
        """A stream of its own for each purpose and number."""
        key = int.from_bytes(hashlib.blake2b(f"{self.source}\n{purpose}".encode(), digest_size=16).digest(), "big")
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, key], spawn_key=(number,))))


class Source(Protocol):
    """Where sessions come from."""

    def sessions(self, count: int | None, seeds: Seeds) -> list[Session]:
        """A number of sessions, or (None) all that there are; fewer are a part of more.

        Raises:
            ValueError: there are not so many, or the source's files cannot be read.
        """


def too_few(what: object, count: int, available: int) -> ValueError:
    """The error for more sessions than a source has."""
    return ValueError(f"{what}: {count} sessions are configured; allowed: 1 to {available}")


def popular(generator: np.random.Generator, count: int, exponent: float) -> int:
    """One of `count` things, the first the most popular: the i-th (from 1) with a weight of 1 / i**exponent (Zipf).

    0 makes all alike.
    """
    weights = np.cumsum(np.arange(1, count + 1, dtype=np.float64) ** -exponent)
    return min(int(np.searchsorted(weights, generator.random() * weights[-1], side="right")), count - 1)
