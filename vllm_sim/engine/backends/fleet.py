"""Several EngineCores in this process on one virtual clock, and a router before them.

Each engine is vLLM's own and is stepped by its own Driver (driver.py). Here is the order in which things happen: an
answer is known at the end of its step; a request is routed at its arrival, and its engine sees it at its next step, as
from a socket; KV events are known to the router `delay_ms` after the end of the step that published them (vLLM's
scheduler publishes in update_from_output, read in 0.32). At one moment answers come first, then arrivals, then steps.
A closed loop counts the requests of the whole fleet. Not modelled: the time that a router takes, requests that move.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from vllm.distributed.kv_events import BlockRemoved, BlockStored, KVEventBatch
from vllm.v1.core.kv_cache_utils import BlockHash, maybe_convert_block_hash

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine import compat
from vllm_sim.engine.backends.driver import Driver
from vllm_sim.engine.backends.row_outcome import Arrival, RowOutcome
from vllm_sim.eviction.simulate import BlockEvents
from vllm_sim.fleet.registry import chosen_by
from vllm_sim.fleet.router import Replica, RoutedRequest, Router
from vllm_sim.fleet.sequence import tell

_NEVER = float("inf")


class Names(NamedTuple):
    """The blocks of a trace by vLLM's names and by their numbers, which routers get."""

    number: dict[BlockHash, int]
    hashes: dict[int, BlockHash]


class FleetDriver:
    """Feeds rows to engines as a router chooses, and steps them in the order of their clocks.

    Args:
        drivers: Of the engines, which have served no request; each without a bound of its own.
        router: Chooses.
        describe: A row as the router sees it, from its number and the time of its arrival.
        names: The trace's blocks; None where the router sees requests alone.
        concurrency: Rows of the fleet that may be served at once; None for no bound.
        progress: Called with the number of rows done.
    """

    def __init__(
        self,
        drivers: Sequence[Driver],
        router: Router,
        describe: Callable[[int, float], RoutedRequest],
        names: Names | None = None,
        concurrency: int | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ):
        self.drivers, self.router, self.describe = drivers, router, describe
        self.concurrency, self.progress = concurrency, progress
        self.replica_of: dict[int, int] = {}
        """Which engine each row went to."""
        self._replicas = [Replica(number) for number in range(len(drivers))]
        self._inboxes: list[list[tuple[float, int]]] = [[] for _ in drivers]
        self._now_ms = 0.0
        self._flying = 0
        """Rows in places of the closed loop; one that no engine can serve takes none."""
        self._due: list[tuple[float, int]] = []
        self._waiting: dict[int, list[Arrival]] = {}
        self._endings: list[tuple[float, int, RowOutcome]] = []
        self._news: list[tuple[float, int, int, BlockEvents]] = []
        self._order = itertools.count()
        self._published: list[list[KVEventBatch]] = [[] for _ in drivers]
        if names is not None and router.sees == "events":
            self._number = {maybe_convert_block_hash(name): number for name, number in names.number.items()}
            for driver, published in zip(drivers, self._published, strict=True):
                compat.PUBLISH.put(driver.scheduler.kv_event_publisher, published.append)
        if names is not None and router.sees == "caches":
            for number, driver in enumerate(drivers):
                replica: Replica = self._replicas[number]
                replica.look = _looking(driver, names)

    def run(self, arrivals: Sequence[Arrival]) -> Iterator[RowOutcome]:
        """Serves all rows; yields each as it ends. Ties in time are served in the order of rows, and of engines."""
        for arrival in arrivals:
            if arrival.after_row is None:
                heapq.heappush(self._due, (arrival.ms, arrival.row))
            else:
                self._waiting.setdefault(arrival.after_row, []).append(arrival)
        done = 0
        while True:
            ended_ms, arrival_ms, (step_ms, number) = self._next_ending(), self._next_arrival(), self._next_step()
            self._now_ms = min(ended_ms, arrival_ms, step_ms)
            if self._now_ms == _NEVER:
                return
            if ended_ms == self._now_ms:
                self._end(heapq.heappop(self._endings)[-1])
            elif arrival_ms == self._now_ms:
                self._route(heapq.heappop(self._due))
            else:
                for outcome in self._step(number):
                    done += 1
                    self.progress(done)
                    yield outcome

    # What happens next

    def _next_ending(self) -> float:
        return self._endings[0][0] if self._endings else _NEVER

    def _next_arrival(self) -> float:
        is_full = self.concurrency is not None and self._flying >= self.concurrency
        return max(self._due[0][0], self._now_ms) if self._due and not is_full else _NEVER

    def _next_step(self, but: int = -1) -> tuple[float, int]:
        """When an engine begins a step, and which; `but` is left out."""
        return min(
            ((self._step_time(number), number) for number in range(len(self.drivers)) if number != but),
            default=(_NEVER, -1),
        )

    def _step_time(self, number: int) -> float:
        driver, inbox = self.drivers[number], self._inboxes[number]
        step_ms = driver.next_step_ms() if driver.is_busy() else _NEVER
        return min(step_ms, max(driver.now_ms, inbox[0][0])) if inbox else step_ms

    # What happens

    def _end(self, outcome: RowOutcome) -> None:
        """An answer is known."""
        replica: Replica = self._replicas[self.replica_of[outcome.row]]
        replica.outstanding_requests -= 1
        replica.outstanding_tokens -= self._prompt_tokens(outcome.row)
        self._flying -= not outcome.rejected
        # A closed loop sends rows in their order, as places get free; only an open one waits for times.
        base_ms = outcome.end_ms if self.concurrency is None else 0.0
        for arrival in self._waiting.pop(outcome.row, ()):
            heapq.heappush(self._due, (base_ms + arrival.ms, arrival.row))

    def _route(self, arrival: tuple[float, int]) -> None:
        """A request arrives, and goes to an engine."""
        row = arrival[1]
        while self._news and self._news[0][0] <= self._now_ms:
            _, _, replica, events = heapq.heappop(self._news)
            tell(self.router, replica, events)
        number = chosen_by(self.router, self.describe(row, self._now_ms), self._replicas)
        self.replica_of[row] = number
        chosen: Replica = self._replicas[number]
        chosen.outstanding_requests += 1
        chosen.outstanding_tokens += self._prompt_tokens(row)
        self._flying += self.drivers[number].takes(row)
        heapq.heappush(self._inboxes[number], (self._now_ms, row))

    def _step(self, number: int) -> list[RowOutcome]:
        """An engine takes what it was sent and computes a step, or several while nothing else happens."""
        driver = self.drivers[number]
        driver.wait_until(self._now_ms)
        rejected = driver.admit(self._inboxes[number])
        until_ms = min(self._next_ending(), self._next_arrival(), self._next_step(but=number)[0])
        ended = driver.step([(until_ms, -1)], is_alone=bool(rejected))
        for outcome in [*rejected, *ended]:
            heapq.heappush(self._endings, (outcome.end_ms, next(self._order), outcome))
        for batch in self._published[number]:
            known_ms = driver.now_ms + self.router.delay_ms
            heapq.heappush(self._news, (known_ms, next(self._order), number, self._numbered(batch)))
        self._published[number].clear()
        return [*rejected, *ended]

    def _prompt_tokens(self, row: int) -> int:
        return int(self.drivers[0].trace.prompt_lengths[row])

    def _numbered(self, batch: KVEventBatch) -> BlockEvents:
        """Events of vLLM's as numbers of blocks."""
        events = BlockEvents([], [])
        for event in batch.events:
            if isinstance(event, BlockStored):
                events.stored.extend(self._number[name] for name in event.block_hashes)
            elif isinstance(event, BlockRemoved):
                events.removed.extend(self._number[name] for name in event.block_hashes)
        return events


def _looking(driver: Driver, names: Names) -> Callable[[RoutedRequest], int]:
    """What looks into an engine's cache, as its lookup would."""
    pool = driver.scheduler.kv_cache_manager.block_pool

    def look(request: RoutedRequest) -> int:
        limit = hittable_blocks(request.prompt_tokens, driver.block_size)
        for place, block in enumerate(request.blocks[:limit].tolist()):
            if pool.get_cached_block(names.hashes[block], [0]) is None:
                return place
        return limit

    return look
