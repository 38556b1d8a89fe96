"""Chats that keep coming, made of a few that are made here."""

from pathlib import Path

import numpy as np
import pytest

from milestone2_code.study.steady import WARM, Steady, steady, warmup_turns
from milestone2_code.study.workload import Chats, Pattern, load_chats
from tests.milestone3.making import ROOT
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record

MODEL = str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct")
PATTERN = Pattern(sessions_per_s=2.0, think_s=60.0)
POOL = 40


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Chats:
    path: Path = tmp_path_factory.mktemp("chats") / "multi_turn.jsonl"
    records = []
    for chat in range(POOL):
        tokens = [1000 + chat] * 40
        for turn in range(1 + chat % 4):
            records.append(
                Record(prompt_token_ids=tokens, response_token_ids=[7] * 8, session_id=f"c{chat}", turn=turn)
            )
            tokens = tokens + [2000 + turn] * 40
    write_records(path, records)
    return load_chats(path, MODEL, "multi", False)


@pytest.fixture(scope="module")
def found(chats: Chats) -> Steady:
    return steady(chats, 16, PATTERN)


def test_as_many_tokens_come_at_the_end_as_after_the_warm_up(chats: Chats, found: Steady) -> None:
    assert (np.diff(found.times_s) >= 0).all()
    assert found.times_s[-1] < found.seconds
    assert found.times_s[found.first - 1] < found.warmup_s
    assert found.times_s[found.first] >= found.warmup_s
    tokens, middle = found.requests.prompt_tokens, (found.warmup_s + found.seconds) / 2
    is_late = found.times_s >= middle
    early, late = tokens[found.first :][~is_late[found.first :]].sum(), tokens[is_late].sum()
    assert 0.8 < early / late < 1.25
    whole = chats.trace.prompt_lengths.sum() / POOL * PATTERN.sessions_per_s
    assert (early + late) / (found.seconds - found.warmup_s) == pytest.approx(whole, rel=0.15)


def test_left_out_are_the_turns_that_bring_most_tokens(chats: Chats) -> None:
    tokens = np.zeros(4)
    for row, record in enumerate(chats.records):
        tokens[record.turn] += chats.trace.prompt_lengths[row]
    turns = warmup_turns(chats)
    assert tokens[: turns + 1].sum() >= WARM * tokens.sum() > tokens[:turns].sum()


def test_single_requests_come_once_each_and_all_count(chats: Chats, tmp_path: Path) -> None:
    firsts = [Record(prompt_token_ids=[chat] * 20, response_token_ids=[7], session_id=f"c{chat}") for chat in range(9)]
    write_records(tmp_path / "single_turn.jsonl", firsts)
    single = steady(load_chats(tmp_path / "single_turn.jsonl", MODEL, "single", False), 16, PATTERN)
    assert (single.first, single.warmup_s) == (0, 0.0)
    assert sorted(single.rows) == list(range(9))


def test_turns_keep_their_order_and_copies_share_nothing(chats: Chats, found: Steady) -> None:
    first = [int(np.flatnonzero(found.sessions == session)[0]) for session in range(int(found.sessions.max()) + 1)]
    for session in range(0, len(first), 25):
        rows = found.rows[found.sessions == session]
        turns = [chats.records[row].turn for row in rows]
        assert turns == list(range(len(turns)))
        assert len({chats.records[row].session_id for row in rows}) == 1
        assert len(set(found.requests.salt[found.sessions == session].tolist())) == 1
    names = [(chats.records[found.rows[place]].session_id, int(found.requests.salt[place])) for place in first]
    assert len(set(names)) == len(names) > 5 * POOL


def test_seeds_differ_and_one_seed_is_the_same_again(chats: Chats, found: Steady) -> None:
    steady.cache_clear()
    again, other = steady(chats, 16, PATTERN), steady(chats, 16, PATTERN._replace(seed=1))
    assert (again.times_s == found.times_s).all()
    assert other.times_s.size != found.times_s.size or (other.times_s != found.times_s).any()
