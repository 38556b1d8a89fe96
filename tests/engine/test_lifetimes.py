"""Spans are added up many at once, and to the same numbers as one after the other."""

import random
from collections import Counter
from typing import Any

import pytest

from vllm_sim.engine.backends import lifetimes
from vllm_sim.engine.backends.lifetimes import CLOCKS, KINDS, Lifetimes


@pytest.mark.parametrize("batch", [1, 7, 10_000])
def test_rows_are_the_same_however_many_spans_are_added_up_at_once(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifetimes, "_BATCH", batch)
    draw, found = random.Random(1), Lifetimes()
    cached: dict[int, Any] = {}
    released: dict[int, Any] = {}
    spans: dict[str, list[tuple[int, ...]]] = {kind: [] for kind in KINDS}
    for _ in range(400):
        found.computed_tokens += draw.choice((0, 1, 50, 10**6))
        found.requests += draw.randint(0, 1)
        found.now_ms += draw.random() * 100
        now = found.computed_tokens, found.requests, int(found.now_ms)
        blocks = draw.sample(range(30), k=draw.randint(0, 6))

        def note(kind: str, moments: list[Any], now: tuple[int, ...] = now) -> None:
            spans[kind] += [tuple(map(int.__sub__, now, moment)) for moment in moments]

        match draw.choice(("cached", "released", "hit", "return", "taken")):
            case "cached":
                found.cached(blocks)
                cached |= dict.fromkeys(blocks, now)
            case "released":
                found.released(blocks)
                released |= dict.fromkeys(blocks, now)
            case "taken":
                found.taken(blocks)
                both = [(cached.pop(block, None), released.pop(block, None)) for block in blocks]
                note("lifetime", [first for first, second in both if first and second])
                note("idle", [second for first, second in both if first and second])
            case hit:
                found.hit(blocks, is_return=hit == "return")
                moments = [released.pop(block) for block in blocks if block in released]
                note("reuse_gap", moments if hit == "hit" else [])
    rows = iter(found.rows())
    for kind in KINDS:
        assert len(spans[kind]) > 20
        for place, clock in enumerate(CLOCKS):
            values = [span[place] for span in spans[kind]]
            below = Counter(2 ** value.bit_length() for value in values)
            assert next(rows) == {
                "kind": kind,
                "clock": clock,
                "blocks": len(values),
                "mean": round(sum(values) / len(values), 3),
                "max": max(values),
                "below": {str(size): below[size] for size in sorted(below)},
            }


def test_a_kind_without_spans_has_no_mean() -> None:
    assert Lifetimes().rows()[0] == {
        "kind": "lifetime", "clock": "computed_tokens", "blocks": 0, "mean": None, "max": 0, "below": {},
    }  # fmt: skip
