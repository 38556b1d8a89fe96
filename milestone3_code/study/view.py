"""A mix as the cache sees it: whole, one workload alone, without tags, with a salt for each tenant, with a burst.

All are made from one tokenised trace in memory. A session is what intervals resample: a session of the trace; of
few-shot questions, which have none, the batch (their id up to its last dash); else the request itself.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vllm_sim.eviction.chains import Array, Chains, Requests, link, reorder
from vllm_sim.eviction.miss_ratio_curve import MissRatioCurve, lru_curve
from vllm_sim.eviction.simulate import Run, simulate
from vllm_sim.sweep.capacity import capacity_blocks
from vllm_sim.sweep.runs import blocks, load
from vllm_sim.trace.record import Record

BURST = "oneoff"
"""The workload that bursts."""
Params = tuple[tuple[str, float], ...]


class View(NamedTuple):
    """Names a way to look at a trace."""

    path: Path
    model: str
    block_size: int
    workload: str | None = None
    """The only one whose requests are served; None: all."""
    tags: str = "with"
    """with, without, shuffled: what a policy sees of workload and turn."""
    tenants: str = "none"
    """What a salt stands for: none, tenant, session, or a number of tenants that sessions are dealt to."""
    burst: bool = False
    part: str = "whole"
    """whole, first, second: half of the time."""
    raw_blocks: bool = False


class ViewRequests(NamedTuple):
    """Requests in the order they are served."""

    requests: Requests
    chains: Chains
    records: Sequence[Record]
    sessions: Array
    """[n], numbers."""

    def tagged(self, name: str) -> dict[str, npt.NDArray[np.bool_]]:
        """Where `workload` or `tenant` has each of its values, in the order of the alphabet."""
        values = np.array([str(getattr(record, name)) for record in self.records])
        return {str(value): values == value for value in np.unique(values)}


@lru_cache(maxsize=6)
def requests_of(view: View) -> ViewRequests:
    """Makes a view.

    Raises:
        ValueError: the trace has no request for it.
    """
    requests, chains = blocks(view.path, view.model, view.block_size, view.raw_blocks)
    records = load(view.path, view.model).records
    order = _order(view, records)
    if not len(order):
        raise ValueError(f"{view.path} has no request of {view.workload or view.part}")
    whole = (None, "with", "none", False, "whole")
    if (view.workload, view.tags, view.tenants, view.burst, view.part) != whole:
        records = [records[row] for row in order]
        requests = _tagged(reorder(requests, order), view, records)
        chains = link(requests, view.block_size, raw=view.raw_blocks)
    return ViewRequests(requests, chains, records, session_numbers(records))


def _order(view: View, records: Sequence[Record]) -> npt.NDArray[np.intp]:
    rows = np.arange(len(records))
    if view.workload is not None:
        rows = rows[[record.workload == view.workload for record in records]]
    if view.part != "whole":
        times = np.array([record.timestamp or 0.0 for record in records])
        is_first = times < (times[0] + times[-1]) / 2
        rows = rows[is_first if view.part == "first" else ~is_first]
    if view.burst:
        is_late = rows >= len(rows) // 2
        moved = is_late & np.array([record.workload == BURST for record in records])
        rows = np.concatenate([rows[~is_late], rows[moved], rows[is_late & ~moved]])
    return rows


def _tagged(requests: Requests, view: View, records: Sequence[Record]) -> Requests:
    if view.tags == "without":
        requests = requests._replace(category=np.zeros_like(requests.category))
    if view.tags == "shuffled":
        requests = requests._replace(category=np.random.default_rng(0).permutation(requests.category))
    if view.tenants != "none":
        requests = requests._replace(salt=salts(view.tenants, records))
    return requests


def salts(tenants: str, records: Sequence[Record]) -> Array:
    """A salt for each request; see `View.tenants`."""
    if tenants == "tenant":
        names = np.array([str(record.tenant) for record in records])
        return np.unique(names, return_inverse=True)[1].astype(np.int64)
    sessions = session_numbers(records)
    if tenants == "session":
        return sessions
    dealt = np.random.default_rng(0).integers(0, int(tenants), int(sessions.max()) + 1)
    return dealt[sessions].astype(np.int64)


def session_numbers(records: Sequence[Record]) -> Array:
    """The session of each request, as a number."""
    names: list[object] = []
    for row, record in enumerate(records):
        batch = str(record.id or "").rpartition("-")[0]
        names.append(record.session_id if record.session_id is not None else ("batch", batch) if batch else row)
    return group_numbers(names)


def group_numbers(names: Sequence[object]) -> Array:
    """Names as numbers in the order of first appearance."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def capacity_of(text: str, view: View) -> int | None:
    """Blocks of a capacity as the plan says it, None for unlimited; never less than the largest request needs.

    Raw blocks and capacities in blocks are taken as they are.
    """
    chains = requests_of(view).chains
    largest = int(chains.need.max())
    if text == "largest":
        return largest
    found = capacity_blocks(text, view.block_size, chains.working_set, view.model)
    return found if found is None or view.raw_blocks else max(found, largest)


@lru_cache(maxsize=256)
def run_of(view: View, policy: str, params: Params, capacity: int | None) -> Run:
    """What the fast backend makes of a view."""
    return simulate(requests_of(view).chains, policy, capacity, dict(params))


def hit_tokens(view: View, policy: str, capacity: int | None, params: Params = ()) -> Array:
    """Of each request."""
    tokens: Any = run_of(view, policy, params, capacity).hit * view.block_size
    return np.minimum(tokens, requests_of(view).requests.prompt_tokens)


@lru_cache(maxsize=2)
def curve(view: View) -> MissRatioCurve:
    """LRU at every capacity that rejects no request."""
    shown = requests_of(view)
    return lru_curve(shown.chains, shown.requests.prompt_tokens, view.block_size)
