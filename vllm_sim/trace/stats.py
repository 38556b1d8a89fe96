"""Statistics of a trace: sizes, sessions, and how much of its prefixes comes again.

Shares and gaps are those of the trace alone, a cache without bounds that serves one request after the other: what no
policy can exceed. Capacity, schedules and the rule about a prompt's last token are the replay's.

Held in memory: what reuse.py needs of the distinct prefixes, which end in hash ids, or in blocks of the greatest common
divisor of the block sizes where there are texts or tokens; and of each row about 100 bytes and its session's name.
"""

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_sim.block_rules import computed_tokens, full_blocks
from vllm_sim.trace.blocks import names_at
from vllm_sim.trace.files import OnBytes, iter_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.reuse import LastUses, Rows
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised

BLOCK_SIZES = (16, 32, 64, 128, 256, 512)
QUANTILES = (50, 90, 99)
UNTAGGED = "(none)"
_CHUNK_UNITS = 1 << 18
_MOST_ID = 0x7FFFFFFFFFFFFFFF
"""An id is any whole number; one that needs more than 63 bits keeps its lower ones."""


class _Facts(NamedTuple):
    """What is known of the rows besides their blocks; n is their number."""

    sessions: NDArray[np.int64]
    """[n], -1 for none."""
    workloads: NDArray[np.int64]
    """[n], places in `tags`."""
    tags: list[str]
    timestamps: NDArray[np.float64]
    """[n], milliseconds; NaN where there is none."""
    roots: NDArray[np.int32]
    """[n]: blocks under different salts are different blocks, and so are hash ids of other sizes."""
    prompts: NDArray[np.int64]
    """[n], tokens."""
    outputs: NDArray[np.int64]
    """[n], tokens."""


class _Uses(NamedTuple):
    """Tokens of a row that an earlier one used last; [runs] each."""

    earlier: NDArray[np.int64]
    later: NDArray[np.int64]
    begin: NDArray[np.int64]
    """The first token, of the row's."""
    end: NDArray[np.int64]
    """After the last one."""

    def blocks(self, size: int, most: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How many blocks end within each run, at `most` [runs] or before."""
        begin, end = self.begin, self.end
        if most is not None:
            begin, end = np.minimum(begin, most), np.minimum(end, most)
        counts: NDArray[np.int64] = end // size - begin // size
        return counts


def trace_stats(
    path: Path, model: str | Path | None, block_sizes: tuple[int, ...] | None = None, on_bytes: OnBytes | None = None
) -> dict[str, Any]:
    """Statistics as a JSON object.

    Args:
        path: A native trace.
        model: Folder of the model that has the tokenizer; not read if all records have hash ids, not needed if
            none has a text.
        block_sizes: In tokens; unless given those of BLOCK_SIZES that fit the trace's hash ids, and the ids' own.
        on_bytes: Called with the number of bytes of the trace that were read.

    Raises:
        TraceError: a line that is not a record or has no tokens.
        ValueError: a block size that does not fit the trace's hash ids.
    """
    reader = _Reader()
    for _, record in iter_records(path, on_bytes):
        reader.read(record)
    facts, hashes = reader.facts(), reader.hashes()
    units = None if hashes is None else sorted(reader.units)
    sizes = _fitting_sizes(units, block_sizes)
    if hashes is None:
        trace = load_tokenised(path, model)
        facts = facts._replace(prompts=trace.prompt_lengths, outputs=trace.response_lengths)
        uses = _token_uses(facts, trace, math.gcd(*sizes))
    else:
        uses = hashes.uses()
    blocks, shares = [], {}
    for size in sizes:
        found, shares[size] = _blocks_of(facts, uses, size)
        blocks.append({"block_size": size, **found})
    timed = facts.timestamps[~np.isnan(facts.timestamps)]
    return {
        "trace": path.name,
        **_sizes(facts, np.ones(len(facts.prompts), dtype=np.bool_)),
        "duration_ms": float(timed.max() - timed.min()) if len(timed) else None,
        "hash_block_sizes": units,
        "distinct_hash_ids": None if hashes is None else hashes.last.distinct_names(),
        "blocks": blocks,
        "workloads": {
            tag: _sizes(facts, facts.workloads == place)
            | {"seen_before_by_block_size": {str(size): shares[size].get(place) for size in sizes}}
            for tag, place in sorted((tag, place) for place, tag in enumerate(facts.tags))
        },
    }


class _Reader:
    """Takes the records of a trace one by one, and the hash ids of one that has nothing else chunk by chunk."""

    def __init__(self) -> None:
        self.units: set[int] = set()
        self._names: dict[str, dict[Any, int]] = {"session": {None: -1}, "workload": {}, "root": {}}
        self._columns = {name: array("q") for name in ("session", "workload", "root", "prompt", "output")}
        self._timestamps = array("d")
        self._hashes: _Hashes | None = _Hashes()

    def read(self, record: Record) -> None:
        """Takes the next record."""
        self._add("session", self._number("session", record.session_id, 1))
        self._add("workload", self._number("workload", UNTAGGED if record.workload is None else record.workload))
        self._add("root", self._number("root", (record.cache_salt, record.hash_block_size)))
        self._timestamps.append(math.nan if record.timestamp is None else record.timestamp)
        self._add("prompt", record.input_length or 0)
        self._add("output", record.output_length or 0)
        if self._hashes is not None and (record.hash_ids is None or record.output_length is None):
            self._hashes = None
        if self._hashes is not None:
            assert record.hash_block_size is not None
            self.units.add(record.hash_block_size)
            self._hashes.read(record, -1 - self._columns["root"][-1])

    def _add(self, column: str, value: int) -> None:
        self._columns[column].append(value)

    def _number(self, kind: str, value: Any, before: int = 0) -> int:
        numbers = self._names[kind]
        return numbers.setdefault(value, len(numbers) - before)

    def facts(self) -> _Facts:
        """What was read; lengths are those of rows of hash ids."""
        columns = {name: np.frombuffer(values, np.int64) for name, values in self._columns.items()}
        return _Facts(
            sessions=columns["session"],
            workloads=columns["workload"],
            tags=list(self._names["workload"]),
            timestamps=np.frombuffer(self._timestamps, np.float64),
            roots=(-1 - columns["root"]).astype(np.int32),
            prompts=columns["prompt"],
            outputs=columns["output"],
        )

    def hashes(self) -> "_Hashes | None":
        """The hash ids; None where a row has none, or more than them."""
        return self._hashes


class _Hashes:
    """The hash ids of a trace that has nothing else."""

    def __init__(self) -> None:
        self.last = LastUses()
        self._runs: list[NDArray[np.int32]] = []
        self._rows = 0
        self._begin()

    def _begin(self) -> None:
        self._ids: list[int] = []
        self._offsets, self._roots, self._sizes, self._ends = [0], array("i"), array("q"), array("q")

    def read(self, record: Record, root: int) -> None:
        """Takes the next record."""
        assert record.hash_ids is not None
        assert record.hash_block_size is not None
        assert record.input_length is not None
        self._ids += record.hash_ids
        self._offsets.append(len(self._ids))
        self._roots.append(root)
        self._sizes.append(record.hash_block_size)
        self._ends.append(min(record.input_length, len(record.hash_ids) * record.hash_block_size))
        if len(self._ids) > _CHUNK_UNITS:
            self._close()

    def _close(self) -> None:
        rows = Rows(
            self._rows,
            _as_names(self._ids),
            np.array(self._offsets),
            np.array(self._roots, np.int32),
            np.array(self._sizes, np.int64),
            np.array(self._ends, np.int64),
        )
        self._runs.append(self.last.add(rows, is_chained=True))
        self._rows += len(self._sizes)
        self._begin()

    def uses(self) -> _Uses:
        """Who used what last."""
        self._close()
        return _as_uses(self._runs)


def _as_names(ids: list[int]) -> NDArray[np.int64]:
    try:
        return np.array(ids, np.int64)
    except OverflowError:
        return np.array([number & _MOST_ID for number in ids], np.int64)


def _as_uses(runs: list[NDArray[np.int32]]) -> _Uses:
    return _Uses(*np.concatenate(runs).astype(np.int64).T)


def _token_uses(facts: _Facts, trace: TokenisedTrace, step: int) -> _Uses:
    """Who used which blocks of `step` tokens last; the last generated token is never computed."""
    last, runs = LastUses(), []
    ends = computed_tokens(facts.prompts, np.maximum(facts.outputs, 1)) // step * step
    for first, stop in _chunks(ends):
        whole = (np.concatenate([trace.prompt(row), trace.response(row)]) for row in range(first, stop))
        names, offsets = names_at(whole, step)
        sizes = np.full(stop - first, step)
        rows = Rows(first, names.view(np.int64), offsets, facts.roots[first:stop], sizes, ends[first:stop])
        runs.append(last.add(rows, is_chained=False))
    return _as_uses(runs)


def _chunks(tokens: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Rows from one to another that have about as many tokens."""
    first, held = 0, 0
    for row, count in enumerate(tokens.tolist()):
        held += count
        if held > 16 * _CHUNK_UNITS or row + 1 == len(tokens):
            yield first, row + 1
            first, held = row + 1, 0


def _fitting_sizes(units: list[int] | None, wanted: tuple[int, ...] | None) -> list[int]:
    """Block sizes, those of hash ids given."""
    for size in wanted or ():
        if size < 1:
            raise ValueError(f"block size {size}; allowed: 1 token or more")
    if units is None:
        return sorted(set(wanted or BLOCK_SIZES))

    def fits(size: int) -> bool:
        return all(unit % size == 0 or size % unit == 0 for unit in units)

    for size in wanted or ():
        if not fits(size):
            shown = ", ".join(map(str, units))
            raise ValueError(f"block size {size}; allowed: divisors and multiples of the hash ids' {shown} tokens")
    return sorted(set(wanted) if wanted else {size for size in (*BLOCK_SIZES, *units) if fits(size)})


def _blocks_of(facts: _Facts, uses: _Uses, size: int) -> tuple[dict[str, Any], dict[int, float]]:
    """(numbers of blocks of a size, and of each workload the share of its prompt blocks that were there before).

    Generated tokens of a row of hash ids are fresh, and so is a prompt's tail that has no id.
    """
    counts = uses.blocks(size)
    of_prompt = uses.blocks(size, facts.prompts[uses.later])
    in_prompt = full_blocks(facts.prompts, size)
    everything = full_blocks(computed_tokens(facts.prompts, np.maximum(facts.outputs, 1)), size)
    prompt_blocks, again = int(in_prompt.sum()), int(of_prompt.sum())
    times = facts.timestamps[uses.later] - facts.timestamps[uses.earlier]
    found = {
        "prompt_blocks": prompt_blocks,
        "seen_before_blocks": again,
        "seen_before_share": again / prompt_blocks if prompt_blocks else None,
        "working_set_blocks": int(everything.sum() - counts.sum()),
        # Distance between two uses of a block, in requests and, where both have a time, in milliseconds.
        "reuse_gap_requests": _quantiles(uses.later - uses.earlier, counts),
        "reuse_gap_ms": _quantiles(times, counts * ~np.isnan(times)),
    }
    total = np.bincount(facts.workloads, weights=in_prompt, minlength=len(facts.tags))
    seen = np.bincount(facts.workloads[uses.later], weights=of_prompt, minlength=len(facts.tags))
    return found, {place: float(seen[place] / total[place]) for place in np.flatnonzero(total).tolist()}


def _sizes(facts: _Facts, chosen: NDArray[np.bool_]) -> dict[str, Any]:
    sessions = facts.sessions[chosen]
    requests = np.unique(sessions[sessions >= 0], return_counts=True)[1]
    return {
        "requests": int(chosen.sum()),
        "sessions": len(requests),
        "requests_per_session": _quantiles(requests),
        "prompt_tokens": int(facts.prompts[chosen].sum()),
        "output_tokens": int(facts.outputs[chosen].sum()),
        "prompt_length": _quantiles(facts.prompts[chosen]),
        "output_length": _quantiles(facts.outputs[chosen]),
    }


def _quantiles(values: NDArray[Any], counts: NDArray[np.int64] | None = None) -> dict[str, float] | None:
    """Quantiles that are values of the data (numpy's `inverted_cdf`), and the largest; None if there are none.

    Args:
        values: The data.
        counts: How often each is there; None: once.
    """
    counts = np.ones(len(values), np.int64) if counts is None else counts
    values, counts = values[counts > 0], counts[counts > 0]
    if not len(values):
        return None
    order = np.argsort(values)
    ends = np.cumsum(counts[order])
    places = np.ceil(ends[-1] * np.array([*QUANTILES, 100]) / 100) - 1
    found = values[order][np.searchsorted(ends, places, side="right")]
    return {name: value.item() for name, value in zip([*(f"p{q}" for q in QUANTILES), "max"], found, strict=True)}
