"""Statistics equal those of a plain count over tuples of ids or tokens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_sim.trace import stats as stats_module
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.stats import trace_stats

MODEL = Path(__file__).parents[2] / "exported_models" / "Llama-3.2-1B-Instruct"


def count(rows: list[tuple[tuple, int, int]], size: int) -> tuple[int, int, int]:
    """(prompt blocks, of these seen before, distinct blocks) of rows (tokens, prompt tokens, generated tokens)."""
    seen: set = set()
    prompt_blocks = again = 0
    for tokens, prompt, generated in rows:
        for end in range(size, prompt + generated, size):
            if end <= prompt:
                prompt_blocks += 1
                again += tokens[:end] in seen
            seen.add(tokens[:end])
    return prompt_blocks, again, len(seen)


def gaps(rows: list[tuple[tuple, int, int]], size: int) -> dict[str, int] | None:
    """Quantiles of the distance between two uses of a block, in requests."""
    last: dict = {}
    found = []
    for row, (tokens, prompt, generated) in enumerate(rows):
        for end in range(size, prompt + generated, size):
            if tokens[:end] in last:
                found.append(row - last[tokens[:end]])
            last[tokens[:end]] = row
    if not found:
        return None
    values = np.quantile(found, [0.5, 0.9, 0.99, 1], method="inverted_cdf").tolist()
    return dict(zip(("p50", "p90", "p99", "max"), values, strict=True))


def found_gaps(stats: dict) -> dict[int, dict[str, int] | None]:
    return {row["block_size"]: row["reuse_gap_requests"] for row in stats["blocks"]}


def found(stats: dict) -> dict[int, tuple[int, int, int]]:
    keys = ("prompt_blocks", "seen_before_blocks", "working_set_blocks")
    return {row["block_size"]: tuple(row[key] for key in keys) for row in stats["blocks"]}


IDS = st.lists(st.integers(0, 2), min_size=1, max_size=5)


@given(prompts=st.lists(st.tuples(IDS, st.integers(0, 7)), min_size=1, max_size=8), output=st.integers(1, 9))
def test_hash_ids_are_counted_by_prefix_at_every_fitting_size(tmp_path_factory, prompts, output):
    path = tmp_path_factory.getbasetemp() / "hashes.jsonl"
    records, rows = [], []
    for number, (ids, missing) in enumerate(prompts):
        length = 8 * len(ids) - missing
        records.append(Record(hash_ids=ids, hash_block_size=8, input_length=length, output_length=output))
        tokens = [(place // 8, ids[place // 8], place % 8) for place in range(length)]
        rows.append((tuple(tokens + [("fresh", number, i) for i in range(output)]), length, output))
    write_records(path, records)
    stats = trace_stats(path, MODEL, (2, 4, 8, 16))
    assert found(stats) == {size: count(rows, size) for size in (2, 4, 8, 16)}
    assert found_gaps(stats) == {size: gaps(rows, size) for size in (2, 4, 8, 16)}
    assert stats["distinct_hash_ids"] == len({i for ids, _ in prompts for i in ids})


@settings(max_examples=8, deadline=None)
@given(
    texts=st.lists(
        st.tuples(
            st.lists(st.integers(0, 1), min_size=1, max_size=12), st.lists(st.integers(0, 1), min_size=1, max_size=6)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_generated_tokens_are_reused_by_a_prompt_that_has_them(tmp_path_factory, monkeypatch_cache, texts):
    path = tmp_path_factory.getbasetemp() / "tokens.jsonl"
    write_records(
        path,
        [Record(prompt_token_ids=p, response_token_ids=r, finish_reason="length") for p, r in texts],
    )
    rows = [(tuple(p + r), len(p), len(r)) for p, r in texts]
    stats = trace_stats(path, MODEL, (1, 2, 3))
    assert found(stats) == {size: count(rows, size) for size in (1, 2, 3)}
    assert found_gaps(stats) == {size: gaps(rows, size) for size in (1, 2, 3)}


@pytest.fixture(scope="module")
def monkeypatch_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def test_salts_keep_blocks_apart_and_workloads_are_told_apart(tmp_path):
    common = {"hash_ids": [1, 2], "hash_block_size": 16, "input_length": 32, "output_length": 1}
    tags = [("a", None, 0.0), ("a", "x", 5.0), ("b", "x", 30.0), ("b", None, 40.0)]
    records = [
        Record(**common, workload=tag, cache_salt=salt, timestamp=time, session_id=tag) for tag, salt, time in tags
    ]
    write_records(tmp_path / "t.jsonl", records)
    stats = trace_stats(tmp_path / "t.jsonl", MODEL, (16,))
    assert found(stats) == {16: (8, 4, 4)}
    assert stats["blocks"][0]["reuse_gap_requests"]["max"] == 3
    assert stats["blocks"][0]["reuse_gap_ms"] == {"p50": 25.0, "p90": 40.0, "p99": 40.0, "max": 40.0}
    shares = {tag: row["seen_before_by_block_size"]["16"] for tag, row in stats["workloads"].items()}
    assert shares == {"a": 0.0, "b": 1.0}
    assert stats["sessions"] == 2


def test_a_block_size_that_does_not_fit_the_ids_is_refused(tmp_path):
    write_records(tmp_path / "t", [Record(hash_ids=[1], hash_block_size=64, input_length=64, output_length=1)])
    with pytest.raises(ValueError, match=r"block size 48; allowed: divisors and multiples of the hash ids' 64"):
        trace_stats(tmp_path / "t", MODEL, (48,))


def test_ids_of_other_sizes_are_other_blocks(tmp_path):
    rows = [Record(hash_ids=[1, 2], hash_block_size=size, input_length=2 * size, output_length=1) for size in (16, 32)]
    write_records(tmp_path / "t.jsonl", rows * 2)
    assert found(trace_stats(tmp_path / "t.jsonl", MODEL, (16,))) == {16: (12, 6, 6)}


def test_a_trace_that_is_read_in_chunks_has_the_same_statistics(tmp_path, monkeypatch):
    chance = np.random.default_rng(0)
    ids = [[int(i) for i in chance.integers(0, 2, chance.integers(1, 9))] for _ in range(500)]
    write_records(
        tmp_path / "t.jsonl",
        [Record(hash_ids=i, hash_block_size=16, input_length=16 * len(i) - 3, output_length=5) for i in ids],
    )
    whole = trace_stats(tmp_path / "t.jsonl", MODEL)
    monkeypatch.setattr(stats_module, "_CHUNK_UNITS", 10)
    assert trace_stats(tmp_path / "t.jsonl", MODEL) == whole
    assert whole["blocks"][0]["seen_before_share"] > 0.8
