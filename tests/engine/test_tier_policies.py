"""Policies on vLLM's CPU memory, by its manager alone: our arc beside vLLM's own, and what 0.33 calls otherwise."""

import hashlib
import inspect
import random
from typing import Any, NamedTuple

import pytest
from vllm.v1.kv_offload.base import LookupResult, OffloadKey, ReqContext, make_offload_key
from vllm.v1.kv_offload.cpu.manager import CPUOffloadingManager
from vllm.v1.kv_offload.cpu.policies.base import CachePolicy, ChunkStatus

from vllm_sim.engine import tier_policy
from vllm_sim.engine.tier_policy import TierPolicy

OURS = "vllm_sim.eviction.policies.{}"
CHUNK = 16


class Outcome(NamedTuple):
    """What a manager made of prompts, one after the other."""

    hits: list[int]
    """Chunks of each prompt that were there."""
    evicted: list[frozenset[OffloadKey]]
    """By each prompt."""


def prompts(seed: int) -> list[list[OffloadKey]]:
    """400 prompts of 11 chunks over 40 texts, some of them popular; the texts share two beginnings of 3 chunks."""
    draw = random.Random(seed)
    found = []
    for _ in range(400):
        text = min(int(draw.expovariate(1 / 8)), 39) if draw.random() < 0.6 else draw.randrange(40)
        names = [f"shared {text % 2} {place}" for place in range(3)] + [f"{text} {place}" for place in range(8)]
        found.append([make_offload_key(hashlib.sha256(name.encode()).digest(), 0) for name in names])
    return found


def serve(policy: str, module: str | None, made: list[list[OffloadKey]], chunks: int) -> Outcome:
    """What is missed is stored, and each copy ends at once."""
    manager = CPUOffloadingManager(chunks, policy, module)
    outcome = Outcome([], [])
    for number, keys in enumerate(made):
        context = ReqContext(req_id=str(number))
        manager.on_new_request(context)
        for place, key in enumerate(keys):
            context.set_offload_key_position(key, (place + 1) * CHUNK)
        there = 0
        while there < len(keys) and manager.lookup(keys[there], context) is LookupResult.HIT:
            there += 1
        if there:
            manager.prepare_load(keys[:there], context)
            manager.complete_load(keys[:there], context)
        output = manager.prepare_store(keys[there:], context)
        assert output is not None
        manager.complete_store(output.keys_to_store, context)
        manager.on_request_finished(context)
        outcome.hits.append(there)
        outcome.evicted.append(frozenset(output.evicted_keys))
    return outcome


def first_return(made: list[list[OffloadKey]], outcome: Outcome) -> int:
    """The first prompt that brings back a chunk which was evicted."""
    gone: set[OffloadKey] = set()
    for number, keys in enumerate(made):
        if gone & set(keys[outcome.hits[number] :]):
            return number
        gone |= outcome.evicted[number]
    return len(made)


@pytest.mark.parametrize("chunks", [60, 100, 200])
def test_our_arc_evicts_as_upstreams_until_a_ghost_returns_and_hits_as_much_after_it(chunks: int) -> None:
    """After it ours moves its target once a request and not once a chunk, and evicts leaves alone."""
    ours_in_all = upstreams_in_all = 0
    for seed in range(6):
        made = prompts(seed)
        upstreams = serve("arc", None, made, chunks)
        ours = serve(OURS.format("arc:Arc"), tier_policy.__name__, made, chunks)
        returned = first_return(made, upstreams)
        assert 5 < returned < 100
        assert ours.hits[: returned + 1] == upstreams.hits[: returned + 1]
        assert ours.evicted[:returned] == upstreams.evicted[:returned]
        assert ours.evicted != upstreams.evicted
        ours_in_all += sum(ours.hits)
        upstreams_in_all += sum(upstreams.hits)
    assert 0.97 < ours_in_all / upstreams_in_all < 1.06


def test_every_method_that_the_installed_vllm_calls_is_there_with_its_parameters() -> None:
    for name, method in inspect.getmembers(CachePolicy, inspect.isfunction):
        wanted = list(inspect.signature(method).parameters)
        assert list(inspect.signature(getattr(TierPolicy, name)).parameters)[: len(wanted)] == wanted, name


def test_a_manager_that_inserts_with_the_request_as_vllm_0_33_does_gets_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[Any] = []

    class Of033(tier_policy.policy_class("s3fifo")):  # type: ignore[misc]
        """Called with two arguments by 0.32's manager, and hands on a third as 0.33's does."""

        def insert(self, key: OffloadKey, chunk: ChunkStatus, req_context: ReqContext | None = None) -> None:
            given.append(req_context or ReqContext(req_id=self._request))
            super().insert(key, chunk, given[-1])

    made = prompts(7)
    plain = serve("s3fifo", tier_policy.__name__, made, 60)
    monkeypatch.setattr(tier_policy, "Of033", Of033, raising=False)
    assert serve("Of033", tier_policy.__name__, made, 60) == plain
    assert len(given) > 400
    assert any(plain.hits)
