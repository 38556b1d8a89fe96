"""What happens to blocks is added up many entries at once, and to the same numbers as one after the other."""

import random

import pytest

from tests.engine.plain_ledger import PlainLifetimes
from vllm_sim.engine.backends import admissions
from vllm_sim.engine.backends.admissions import Admissions
from vllm_sim.engine.backends.lifetimes import KINDS, Lifetimes


@pytest.mark.parametrize("batch", [1, 70, 100_000])
def test_rows_are_the_same_however_many_entries_are_added_up_at_once(
    batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admissions, "_BATCH", batch)
    draw, found, expected = random.Random(1), Admissions(30), Admissions(30)
    plain = expected._lifetimes = PlainLifetimes(30)
    now_ms = 0.0
    for _ in range(400):
        tokens, now_ms = draw.choice((0, 1, 50, 10**6)), now_ms + draw.random() * 100
        blocks, event, is_first = draw.sample(range(30), k=draw.randint(0, 6)), draw.randrange(5), draw.random() < 0.5
        for one in (found, expected):
            one.computed_tokens += tokens
            one.set_time(now_ms)
            if is_first:
                one.count_admission("request", 0, [], is_return=False)
            one.note(event, blocks)
    assert found.lifetime_rows() == expected.lifetime_rows()
    assert all(len(plain.spans[kind]) > 20 for kind in KINDS)


def test_a_kind_without_spans_has_no_mean() -> None:
    assert Lifetimes(1).rows()[0] == {
        "kind": "lifetime", "clock": "computed_tokens", "blocks": 0, "mean": None, "max": 0, "below": {},
    }  # fmt: skip
