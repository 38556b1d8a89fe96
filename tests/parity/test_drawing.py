"""What a search draws: the same by its seed, within what can run, and under pressure in most cases."""

import json
from collections import Counter
from dataclasses import asdict

import pytest

from parity.drawing import BLOCK_SIZES, LIVE, REQUESTS, TIER, Drawn, draw
from parity.model import MODELS
from parity.workload import Case, largest_tokens, make_asks
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.registry import POLICIES, make_policy


@pytest.fixture(scope="module")
def drawn() -> list[Drawn]:
    return [draw(7, number) for number in range(1, 101)]


def test_a_seed_and_a_number_always_draw_the_same_case_and_others_another(drawn: list[Drawn]) -> None:
    assert [draw(7, number) for number in (100, 1, 50)] == [drawn[99], drawn[0], drawn[49]]
    assert draw(8, 1) != drawn[0]
    assert len({one.case.name for one in drawn}) == len({one.case.seed for one in drawn}) == len(drawn)


def test_two_of_three_cases_are_tight(drawn: list[Drawn]) -> None:
    assert [one.is_tight for one in drawn[:6]] == [True, True, False] * 2
    assert sum(one.is_tight for one in drawn) == 67


def test_the_largest_request_of_every_case_can_be_served(drawn: list[Drawn]) -> None:
    for one in drawn:
        case = one.case
        asks = make_asks(case.seed, case.sessions, case.shape)
        assert largest_tokens(asks) <= case.max_model_len
        assert case.needed_blocks(case.max_model_len) <= case.capacity_blocks
        assert case.max_num_seqs <= case.max_num_batched_tokens
        assert case.long_prefill_token_threshold <= case.max_model_len
        assert case.enable_chunked_prefill or case.max_num_batched_tokens >= case.max_model_len
        assert REQUESTS[0] <= len(asks) < REQUESTS[1] + case.shape.turns


def test_vllm_takes_the_block_size_of_every_model() -> None:
    """Cases 76 and 92 of seed 1 had chunks of 128 tokens in blocks of 96, which vLLM's CPU kernels refuse."""
    cases = [draw(1, number).case for number in range(1, 101)]
    of_chunks = {case.block_size for case in cases if case.model == "llama4"}
    assert of_chunks
    assert of_chunks <= {32, 64, 128}
    assert {case.block_size for case in cases if case.model == "gemma3"} == set(BLOCK_SIZES)


def test_a_tight_cache_holds_less_than_twice_its_largest_request(drawn: list[Drawn]) -> None:
    for one in drawn:
        case = one.case
        need_blocks = case.needed_blocks(largest_tokens(make_asks(case.seed, case.sessions, case.shape)))
        assert need_blocks <= case.capacity_blocks
        assert not one.is_tight or case.capacity_blocks < 2 * need_blocks
        assert not one.is_tight or case.max_num_seqs >= 4


def test_every_policy_that_can_be_live_is_drawn_and_everything_else_too(drawn: list[Drawn]) -> None:
    def values(name: str) -> Counter[object]:
        return Counter(getattr(one.case, name) for one in drawn)

    assert set(values("policy")) == set(LIVE) == set(POLICIES) - {"belady"}
    assert set(values("model")) == set(MODELS)
    assert set(values("block_size")) == set(BLOCK_SIZES)
    for name in ("async_scheduling", "enable_chunked_prefill", "scheduler_reserve_full_isl", "scheduling_policy"):
        assert len(values(name)) == 2
    assert {64, 8192} <= set(values("max_num_batched_tokens"))
    assert None in values("concurrency")
    assert max(values("long_prefill_token_threshold")) > 0
    assert set(Counter(one.case.shape.turns for one in drawn)) == {1, 2, 3, 4}


def test_some_cases_have_cpu_memory_that_holds_their_largest_prompt_and_all_do_where_it_is_wanted(
    drawn: list[Drawn],
) -> None:
    assert 20 <= sum(one.case.tier is not None for one in drawn) <= 45
    wanted = [draw(7, number, has_tier=True) for number in range(1, 101)]
    for one, same in zip(wanted, drawn, strict=True):
        case = one.case
        assert case.tier_chunks is not None
        assert case.tier_chunks * case.chunk_blocks + 1 >= case.capacity_blocks
        assert same.case.tier is None or same == one
    for name, count in (("tier_policy", 2 + len(TIER)), ("copy_steps", 3), ("chunk_blocks", 2), ("tier_threshold", 2)):
        assert len({getattr(one.case, name) for one in wanted}) == count
    assert {one.case.tier_prompt_only for one in wanted} == {True, False}


@pytest.mark.parametrize("policy", LIVE)
def test_a_drawn_policy_needs_not_know_the_future(policy: str) -> None:
    make_policy(policy, PolicyContext(blocks=1, nodes=1))


def test_a_case_comes_back_from_the_file_that_repeats_it(drawn: list[Drawn]) -> None:
    for one in drawn[:10]:
        assert Case.read(json.loads(json.dumps(asdict(one.case)))) == one.case
