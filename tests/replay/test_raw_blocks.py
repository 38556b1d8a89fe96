"""Raw blocks: each hash id is one block, the partial tail too, and outputs are left out. By hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serving import MODEL, write_trace
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.trace.record import TraceError


def row(ids: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    return {"hash_ids": ids, "input_length": tokens, "hash_block_size": 4, "output_length": 50, **more}


def settings(**values: Any) -> RunConfig:
    return RunConfig(model=str(MODEL), **{"backend": "fast", "block_size": 4, "raw_blocks": True} | values)


def parts(folder: Path) -> list[tuple[int, ...]]:
    rows = [json.loads(line) for line in (folder / "requests.jsonl").read_text().splitlines()]
    names = ("hit_tokens", "miss_cold_tokens", "miss_evicted_tokens", "miss_partial_tokens", "miss_last_tokens")
    return [tuple(one[name] for name in names) for one in rows]


def test_partial_tail_is_a_block_that_counts_its_own_tokens(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.jsonl", [row([1, 2, 3], 10), row([1, 2, 3], 10), row([1, 2, 4], 12)])
    summary = replay(trace, tmp_path / "out", settings())
    assert parts(tmp_path / "out") == [(0, 10, 0, 0, 0), (10, 0, 0, 0, 0), (8, 4, 0, 0, 0)]
    assert summary.config.raw_blocks is True
    assert summary.token_hit_rate == round(18 / 32, 6)
    assert summary.block_hit_rate == round(5 / 9, 6)
    assert summary.request_hit_rate == round((0 + 1 + 8 / 12) / 3, 6)
    assert (summary.output_tokens, summary.slots_filled, summary.working_set_blocks) == (0, 14, 4)


def test_tail_without_an_id_is_a_partial_miss(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.jsonl", [row([1, 2], 10), row([1, 2], 10)])
    replay(trace, tmp_path / "out", settings())
    assert parts(tmp_path / "out") == [(0, 8, 0, 2, 0), (8, 0, 0, 2, 0)]


def test_evicted_blocks_are_told_from_cold_ones(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.jsonl", [row([1, 2, 3], 10), row([5, 6], 8), row([1, 2, 3], 10)])
    summary = replay(trace, tmp_path / "out", settings(capacity_blocks=3))
    assert parts(tmp_path / "out")[2] == (4, 0, 6, 0, 0)
    assert summary.evicted_blocks == 4


@pytest.mark.parametrize("backend", ["engine", "blockpool"])
def test_backends_that_run_vllm_refuse_raw_blocks(backend: str) -> None:
    with pytest.raises(ValueError, match=f"backend {backend} cannot serve raw blocks"):
        settings(backend=backend)


def test_trace_without_hash_ids_or_of_another_size_names_the_line(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.jsonl", [row([1], 4), {"prompt": "a", "response": "b"}])
    with pytest.raises(TraceError, match="line 2: no hash_ids"):
        replay(trace, tmp_path / "out", settings())
    trace = write_trace(tmp_path / "u.jsonl", [row([1], 4), row([1], 5, hash_block_size=8)])
    with pytest.raises(TraceError, match="line 2: hash_block_size is 8, --block-size 4"):
        replay(trace, tmp_path / "out", settings())


@pytest.mark.parametrize("backend", ["fast", "blockpool"])
def test_a_row_of_hash_ids_says_that_generated_blocks_are_never_hit(tmp_path: Path, backend: str) -> None:
    hashes = write_trace(tmp_path / "hashes.jsonl", [row([1, 2], 8), row([1, 2, 3], 10)])
    texts = write_trace(tmp_path / "texts.jsonl", [{"prompt": "hehe", "response": "hahaha!"}])
    how = {"backend": backend, "raw_blocks": False, "concurrency": 1, "capacity_blocks": 100}
    assert replay(hashes, tmp_path / "out", settings(**how)).generated_blocks == "never hit"
    assert "generated_blocks" not in replay(texts, tmp_path / "out", settings(**how)).to_row()
    if backend == "fast":
        assert "generated_blocks" not in replay(hashes, tmp_path / "out", settings()).to_row()
