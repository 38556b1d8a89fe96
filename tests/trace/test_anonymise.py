"""An anonymous trace shares blocks exactly where the text did, and shows nothing else of it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_sim.trace.anonymise import anonymise
from vllm_sim.trace.files import iter_records, write_records
from vllm_sim.trace.record import Record, TraceError

MODEL = Path(__file__).parents[2] / "exported_models" / "Llama-3.2-1B-Instruct"


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def shared(a, b) -> int:
    """Equal items at the beginning of both."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


PROMPTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=14), min_size=2, max_size=5)


@settings(max_examples=8, deadline=None)
@given(prompts=PROMPTS, size=st.integers(1, 4))
def test_prefixes_are_shared_exactly_as_far_as_full_blocks_were(tmp_path_factory, prompts, size):
    folder = tmp_path_factory.getbasetemp()
    write_records(folder / "in", [Record(prompt_token_ids=p, response="hi", timestamp=3) for p in prompts])
    anonymise(folder / "in", folder / "out", MODEL, size)
    records = [record for _, record in iter_records(folder / "out")]
    assert [r.input_length for r in records] == [len(p) for p in prompts]
    assert {(r.output_length, r.timestamp, r.hash_block_size) for r in records} == {(2, 3, size)}
    for a, one in zip(prompts, records, strict=True):
        assert len(one.hash_ids or []) == len(a) // size
        for b, other in zip(prompts, records, strict=True):
            assert shared(one.hash_ids, other.hash_ids) == (shared(a, b) if a != b else len(a)) // size


def test_nothing_of_the_text_or_the_names_is_left(tmp_path):
    record = Record(
        messages=[{"role": "user", "content": "secret " * 40}],
        response="secret",
        tools=[{"type": "function", "function": {"name": "secret"}}],
        id="secret",
        session_id="secret",
        tenant="secret",
        cache_salt="secret",
        workload="chat",
        turn=2,
        extra={"secret": "secret"},
    )
    write_records(tmp_path / "in", [record])
    anonymise(tmp_path / "in", tmp_path / "out", MODEL)
    assert "secret" not in (tmp_path / "out").read_text()
    ((_, kept),) = iter_records(tmp_path / "out")
    assert (kept.workload, kept.turn, kept.hash_block_size) == ("chat", 2, 16)
    assert kept.session_id is not None
    assert kept.cache_salt is not None


def test_the_salt_decides_about_the_ids(tmp_path):
    write_records(tmp_path / "in", [Record(hash_ids=[1, 2], hash_block_size=8, input_length=16, output_length=1)])
    texts = []
    for number, salt in enumerate(["a", "a", "b", None, None]):
        anonymise(tmp_path / "in", tmp_path / str(number), MODEL, salt=salt)
        texts.append((tmp_path / str(number)).read_text())
    assert texts[0] == texts[1]
    assert len(set(texts)) == 4


def test_ids_of_another_block_size_are_refused(tmp_path):
    write_records(tmp_path / "in", [Record(hash_ids=[1], hash_block_size=8, input_length=8, output_length=1)])
    with pytest.raises(TraceError, match="line 1: its ids stand for 8 tokens, not for 16; allowed"):
        anonymise(tmp_path / "in", tmp_path / "out", MODEL, 16)
    assert not (tmp_path / "out").exists()
