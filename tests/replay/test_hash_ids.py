"""Blocks of hash ids are named by the ids, without a token; the chains are those that their tokens would give."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving import MODEL, write_trace
from vllm_sim.eviction.chains import Chains, Requests, link
from vllm_sim.replay.requests import cache_requests
from vllm_sim.replay.run import load
from vllm_sim.trace.synthetic import Filler
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised


def by_tokens(trace: TokenisedTrace, requests: Requests, block_size: int) -> Chains:
    """The chains from all tokens of each row, one block after the other."""
    number_of: dict[bytes, int] = {}
    rows = []
    for row in range(len(trace)):
        tokens = np.concatenate([trace.prompt(row), trace.response(row)])
        places = range(0, len(tokens) - block_size + 1, block_size)
        rows.append([number_of.setdefault(tokens[i : i + block_size].tobytes(), len(number_of)) for i in places])
    ids = np.array([name for row in rows for name in row], dtype=np.int64)
    begins = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    return link(requests._replace(ids=ids, begins=begins), block_size)


@st.composite
def rows(draw: Any) -> dict[str, Any]:
    output = {"output_length": draw(st.integers(0, 40))} | draw(st.sampled_from([{}, {"finish_reason": "length"}]))
    salt = draw(st.sampled_from([{}, {"cache_salt": "a"}]))
    kind = draw(st.sampled_from(["ids", "ids", "ids", "tokens"]))
    if kind == "tokens":
        return {"prompt_token_ids": draw(st.lists(st.integers(0, 2), min_size=1, max_size=40))} | output | salt
    unit = draw(st.sampled_from([12, 12, 24, 9]))
    ids = draw(st.lists(st.integers(0, 3) | st.just(2**70), max_size=4))
    shortest = max(1, (len(ids) - 1) * unit + 1)
    length = draw(st.integers(shortest, len(ids) * unit + unit - 1))
    return {"hash_ids": ids, "hash_block_size": unit, "input_length": length} | output | salt


@pytest.mark.parametrize("block_size", [1, 2, 3, 4, 6, 12, 24, 36])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(made=st.lists(rows(), min_size=1, max_size=12))
def test_chains_of_hash_ids_are_those_of_their_tokens(
    tmp_path_factory: pytest.TempPathFactory, block_size: int, made: list[dict[str, Any]]
) -> None:
    loaded = load(write_trace(tmp_path_factory.mktemp("ids") / "t.jsonl", made), str(MODEL))
    requests = cache_requests(loaded.trace, loaded.records, block_size)
    found, expected = link(requests, block_size), by_tokens(loaded.trace, requests, block_size)
    for name in Chains._fields:
        assert np.array_equal(getattr(found, name), getattr(expected, name), equal_nan=True), name


def test_chains_of_hash_ids_make_no_token_and_the_cache_holds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = [{"hash_ids": [1, 2, 2**80 + row], "input_length": 1400, "output_length": 500} for row in range(100)]
    path = write_trace(tmp_path / "t.jsonl", made)

    def no_token(*arguments: object) -> None:
        raise AssertionError("a token is made")

    with monkeypatch.context() as patch:
        patch.setattr(Filler, "hash_prompt", no_token)
        patch.setattr(Filler, "fresh", no_token)
        loaded = load(path, str(MODEL))
        for size in (16, 512):
            assert link(cache_requests(loaded.trace, loaded.records, size), size).working_set > 100
    assert sum(file.stat().st_size for file in loaded.trace.folder.iterdir()) < 100 * 150 + 2000
    again = load_tokenised(path, MODEL)
    assert len(again.prompt(7)) == 1400
    assert len(again.response(7)) == 500
