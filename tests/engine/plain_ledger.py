"""The ledger as its definition has it, one block after the other: what the compiled one is compared with."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vllm_sim.block_rules import hittable_blocks
from vllm_sim.engine.backends.admissions import Admission
from vllm_sim.engine.backends.block_log import ABOUT, CACHED, CLOCKS, HEAD, HIT, RELEASED, TAKEN
from vllm_sim.engine.backends.ledger import Ledger
from vllm_sim.engine.backends.lifetimes import KINDS, Lifetimes


class PlainLifetimes(Lifetimes):
    """Keeps every span."""

    def __init__(self, blocks: int):
        super().__init__(blocks)
        self.cached: dict[int, list[int]] = {}
        self.released: dict[int, list[int]] = {}
        self.spans: dict[str, list[list[int]]] = {kind: [] for kind in KINDS}

    def add_up(self, log: np.ndarray) -> None:
        place, numbers = 0, log.tolist()
        while place < len(numbers):
            event, count, *now = numbers[place:][:ABOUT]
            blocks = numbers[place + HEAD :][:count]
            place += HEAD + count
            for block in blocks:
                self.add(event, block, now)

    def add(self, event: int, block: int, now: list[int]) -> None:
        if event == CACHED:
            self.cached[block] = now
        elif event == RELEASED:
            self.released[block] = now
        else:
            released = self.released.pop(block, None)
            if event == HIT and released:
                self.note("reuse_gap", released, now)
            cached = self.cached.pop(block, None) if event == TAKEN else None
            if cached and released:
                self.note("lifetime", cached, now)
                self.note("idle", released, now)

    def note(self, kind: str, since: list[int], now: list[int]) -> None:
        self.spans[kind].append([end - begin for begin, end in zip(since, now, strict=True)])

    def rows(self) -> list[dict[str, Any]]:
        rows = []
        for kind in KINDS:
            for place, clock in enumerate(CLOCKS):
                values = [span[place] for span in self.spans[kind]]
                below = Counter(2 ** value.bit_length() for value in values)
                rows.append({
                    "kind": kind,
                    "clock": clock,
                    "blocks": len(values),
                    "mean": round(sum(values) / len(values), 3) if values else None,
                    "max": max(values, default=0),
                    "below": {str(size): below[size] for size in sorted(below)},
                })  # fmt: skip
        return rows


@dataclass
class Known:
    """A hash that was ever cached."""

    parent: Any
    owner: str = ""
    evictor: str | None = None


class PlainLedger(Ledger):
    """Dictionaries, and orphans counted anew after each eviction."""

    def __init__(self, manager: Any):
        self.known: dict[Any, Known] = {}
        self.held: dict[int, Any] = {}
        self.generated: dict[int, bool] = {}
        self.most_orphans = 0
        super().__init__(manager)
        self._lifetimes = PlainLifetimes(0)

    @property
    def working_set_blocks(self) -> int:
        return len(self.known)

    @property
    def orphan_blocks(self) -> int:
        return self.most_orphans

    @property
    def hashes(self) -> set[bytes]:
        return set(self.known)

    def _look(self, request: Any, hit_blocks: Sequence[int], loaded_blocks: int = 0) -> Admission:
        hit = len(hit_blocks)
        hashes = request.block_hashes[: hittable_blocks(request.num_prompt_tokens, self.block_size)]
        evicted = hit
        while evicted < len(hashes) and hashes[evicted] in self.known:
            evicted += 1
        by = self.known[hashes[hit]].evictor if evicted > hit else None
        generated = sum(self.generated[block] for block in hit_blocks)
        return Admission(hit, generated, len(hashes) - evicted, evicted - hit, by)

    def _read(self, log: np.ndarray) -> None:
        self._lifetimes.add_up(log)

    def take(self, name: str, new: Sequence[Any]) -> None:
        self.count_allocated(name, len(new))
        self.note(TAKEN, [block.block_id for block in new])
        for block in new:
            if block.block_id in self.held:
                known = self.known[self.held.pop(block.block_id)]
                known.evictor = name
                self.count_evictions(known.owner, name, 1)
                cached = set(self.held.values())
                orphans = sum(self.known[one].parent not in {None, *cached} for one in cached)
                self.most_orphans = max(self.most_orphans, orphans)

    def cache(self, request: Any) -> None:
        name, hashes = request.request_id, request.block_hashes
        start, full = self._cached[name], self._full.get(name, 0)
        for place in range(start, full):
            block = self._blocks[name][place].block_id
            known = self.known.setdefault(hashes[place], Known(hashes[place - 1] if place else None))
            known.owner, self.held[block] = name, hashes[place]
            self.generated[block] = place >= request.num_prompt_tokens // self.block_size
        if full > start:
            self._cached[name] = full
            self.note(CACHED, [block.block_id for block in self._blocks[name][start:full]])
