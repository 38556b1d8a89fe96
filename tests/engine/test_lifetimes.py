"""What happens to blocks is added up many entries at once, and to the same numbers as one after the other."""

import random

import pytest

from tests.engine.plain_ledger import PlainLifetimes
from vllm_sim.engine.backends import lifetimes
from vllm_sim.engine.backends.lifetimes import KINDS, Lifetimes


@pytest.mark.parametrize("batch", [1, 70, 100_000])
def test_rows_are_the_same_however_many_entries_are_added_up_at_once(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifetimes, "_BATCH", batch)
    draw, found, expected = random.Random(1), Lifetimes(30), PlainLifetimes(30)
    for _ in range(400):
        tokens, requests, ms = draw.choice((0, 1, 50, 10**6)), draw.randint(0, 1), draw.random() * 100
        blocks, event = draw.sample(range(30), k=draw.randint(0, 6)), draw.randrange(5)
        for one in (found, expected):
            one.computed_tokens += tokens
            one.requests += requests
            one.now_ms += ms
            if event < 3:
                (one.cached, one.released, one.taken)[event](blocks)
            else:
                one.hit(blocks, is_return=event == 3)
    assert all(len(expected.spans[kind]) > 20 for kind in KINDS)
    assert found.rows() == expected.rows()


def test_a_kind_without_spans_has_no_mean() -> None:
    assert Lifetimes(1).rows()[0] == {
        "kind": "lifetime", "clock": "computed_tokens", "blocks": 0, "mean": None, "max": 0, "below": {},
    }  # fmt: skip
