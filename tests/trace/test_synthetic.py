"""Tokens for what a trace gives as ids and lengths only."""

import itertools
import string
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving import MODEL
from vllm_sim.trace.synthetic import Filler
from vllm_sim.trace.vocabulary import Vocabulary

FILLER = Filler(np.arange(0, 100, 2, dtype=np.int32), np.arange(1, 100, 2, dtype=np.int32))
IDS = st.lists(st.integers(0, 6) | st.integers(0, FILLER.largest_id), min_size=1, max_size=6)
STREAMS = st.integers(0, FILLER.largest_id)


def common(one: Sequence[object], other: Sequence[object]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


@given(one=IDS, other=IDS, block_size=st.sampled_from([2, 4, 16]), part=st.sampled_from([1, 2]))
def test_prompts_share_blocks_exactly_where_they_share_ids(
    one: list[int], other: list[int], block_size: int, part: int
) -> None:
    step = max(block_size // part, 2)

    def blocks(ids: list[int], row: int) -> list[tuple[int, ...]]:
        tokens = FILLER.hash_prompt(np.array(ids), block_size, len(ids) * block_size, row)
        assert len(tokens) == len(ids) * block_size
        return [tuple(tokens[i : i + step].tolist()) for i in range(0, len(tokens), step)]

    assert common(blocks(one, 0), blocks(other, 1)) == common(one, other) * block_size // step


@given(one=STREAMS, other=STREAMS, start=st.integers(0, 2**33))
def test_two_streams_never_agree_in_two_neighbouring_tokens(one: int, other: int, start: int) -> None:
    equal = FILLER.fresh(one, start, 200) == FILLER.fresh(other, start, 200)
    assert equal.all() if one == other else not (equal[1:] & equal[:-1]).any()


@given(stream=STREAMS, start=st.integers(0, 2**33), count=st.integers(0, 50))
def test_a_stream_does_not_depend_on_where_it_is_read_from(stream: int, start: int, count: int) -> None:
    assert (FILLER.fresh(stream, start, 100 + count)[100:] == FILLER.fresh(stream, start + 100, count)).all()


@given(ids=IDS, tail=st.integers(1, 15))
def test_the_tail_that_no_id_covers_is_fresh(ids: list[int], tail: int) -> None:
    tokens = FILLER.hash_prompt(np.array(ids), 16, 16 * len(ids) + tail, 3)
    assert len(tokens) == 16 * len(ids) + tail
    assert set(tokens[: 16 * len(ids)]) <= set(FILLER.prompt_ids)
    assert set(tokens[16 * len(ids) :]) <= set(FILLER.fresh_ids)


def test_an_id_that_has_no_tokens_of_its_own_is_refused() -> None:
    FILLER.hash_prompt(np.array([FILLER.largest_id]), 4, 4, 0)
    for large in (FILLER.largest_id + 1, 2**60):
        with pytest.raises(ValueError, match=f"hash id number {large} does not fit; allowed: 0 to {FILLER.largest_id}"):
            FILLER.hash_prompt(np.array([1, large]), 4, 8, 0)


def test_words_are_preferred_and_special_tokens_are_never_taken() -> None:
    pairs = itertools.product(string.ascii_letters, string.ascii_lowercase)
    words = {f"\u0120{first}{second}": i for i, (first, second) in enumerate(pairs)}
    odd = {"!": 5000, "\u012012": 5001, "<|eot_id|>": 5002}
    filler = Filler.from_vocabulary(words | odd, [5002, 0])
    taken = set(filler.prompt_ids) | set(filler.fresh_ids)
    assert taken <= set(words.values()) - {0}
    assert len(filler.prompt_ids) == len(filler.fresh_ids) == (len(words) - 1) // 2
    few = Filler.from_vocabulary({"a": 1, "b": 2, "!": 3, "?": 4, "<s>": 0}, [0])
    assert set(few.prompt_ids) | set(few.fresh_ids) == {1, 2, 3, 4}


def test_a_vocabulary_of_three_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="a vocabulary of 3 ordinary tokens is too small"):
        Filler.from_vocabulary({"a": 1, "b": 2, "c": 3}, [])


@pytest.mark.parametrize("stream", [0, 1, 12345, 2**31 - 1])
def test_made_tokens_come_back_from_their_text(stream: int) -> None:
    vocabulary = Vocabulary(MODEL)
    fresh = vocabulary.filler.fresh(stream, 7, 3000)
    ids = np.arange(stream % 1000, stream % 1000 + 100)
    for tokens in (fresh, vocabulary.filler.hash_prompt(ids, 16, 1605, stream)):
        assert vocabulary.encode_responses([vocabulary.decode(tokens)]) == [tokens.tolist()]
    assert len(vocabulary.filler.fresh_ids) > 10_000
