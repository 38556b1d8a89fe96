"""What an answer is does not depend on how it was scheduled."""

from typing import Any

import pytest
from vllm.entrypoints.llm import LLM
from vllm.v1.metrics.reader import Counter

from tests.engine.conftest import Start, generate

SHARED = "A library of eight floors, each with its own colour and its own smell. " * 6
ROWS: list[dict[str, Any]] = [
    {"prompt": f"{SHARED[: 40 * (i % 9)]}question {i}", "response": f"answer {i}" + " and more" * (i % 50)}
    | ({"finish_reason": "length"} if i % 7 == 0 else {})
    for i in range(300)
]
PROMPTS = [row["prompt"] for row in ROWS]
EXPECTED = [(row["response"], row.get("finish_reason", "stop")) for row in ROWS]


def answers(llm: LLM) -> list[tuple[str, str | None]]:
    return [(output.text, output.finish_reason) for output in generate(llm, PROMPTS)]


def preemptions(llm: LLM) -> int:
    counters = [metric for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions"]
    assert isinstance(counters[0], Counter)
    return counters[0].value


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_hundreds_of_requests_at_once_get_their_own_answers(start: Start, asynchronous: bool) -> None:
    llm = start(ROWS, async_scheduling=asynchronous, max_num_seqs=512)
    assert llm.llm_engine.vllm_config.scheduler_config.async_scheduling is asynchronous
    assert answers(llm) == EXPECTED


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_prompts_computed_in_chunks_get_their_answers(start: Start, asynchronous: bool) -> None:
    llm = start(ROWS, async_scheduling=asynchronous, max_num_seqs=7, max_num_batched_tokens=19)
    assert answers(llm) == EXPECTED


@pytest.mark.parametrize("asynchronous", [False, True], ids=["synchronous", "asynchronous"])
def test_preempted_requests_get_their_answers(start: Start, asynchronous: bool) -> None:
    llm = start(
        ROWS,
        async_scheduling=asynchronous,
        max_num_batched_tokens=256,
        max_model_len=256,
        num_gpu_blocks_override=40,
        disable_log_stats=False,
    )
    assert answers(llm) == EXPECTED
    assert preemptions(llm) > 10


def test_preempted_requests_go_on_with_the_same_tokens_after_the_recorded_end(start: Start) -> None:
    few = start(ROWS, max_model_len=256, num_gpu_blocks_override=40, disable_log_stats=False)
    tokens = [output.token_ids for output in generate(few, PROMPTS[:60], ignore_eos=True, max_tokens=90)]
    assert preemptions(few) > 10
    many = start(ROWS)
    assert [o.token_ids for o in generate(many, PROMPTS[:60], ignore_eos=True, max_tokens=90)] == tokens


@pytest.mark.parametrize("block_size", [1, 3, 8, 100, 512])
def test_any_block_size_gives_the_answers(start: Start, block_size: int) -> None:
    llm = start(ROWS, block_size=block_size)
    assert llm.llm_engine.vllm_config.cache_config.block_size == block_size
    assert answers(llm) == EXPECTED


def test_the_number_of_blocks_follows_the_options(start: Start) -> None:
    def blocks(**options: Any) -> int | None:
        return start(ROWS[:1], max_model_len=1024, **options).llm_engine.vllm_config.cache_config.num_gpu_blocks

    one_token = 16 * 2 * 8 * 64 * 2  # layers, key and value, heads, head size, bytes
    assert blocks() == 4 * 2**30 // (8 * one_token)
    assert blocks(num_gpu_blocks_override=200) == 200
    assert blocks(kv_cache_memory_bytes=2000 * one_token) == 250


def test_scheduling_is_asynchronous_by_default(start: Start) -> None:
    assert start(ROWS[:1]).llm_engine.vllm_config.scheduler_config.async_scheduling is True
