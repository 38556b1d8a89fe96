"""vLLM's KV-cache manager over the pool, under every policy, against a model: chunks, shared blocks, copies,
preemption, blocks dropped from outside and resets, in any order."""

import hashlib
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from vllm.sampling_params import SamplingParams
from vllm.v1.core.kv_cache_utils import BlockHash
from vllm.v1.request import Request, RequestStatus

from vllm_sim.engine.backends.blockpool import make_manager
from vllm_sim.engine.pool import Description, adopt
from vllm_sim.eviction.online_cache import OnlineCache, online_context
from vllm_sim.eviction.policy import RequestFacts
from vllm_sim.eviction.registry import POLICIES

# The name `lru` means upstream's own queue.
POOLED = ["vllm_sim.eviction.policies.lru:Lru", *(name for name in POLICIES if name not in ("lru", "belady"))]
QUICK = (POOLED[0], "arc", "random", "hybrid")
"""In `make test`; the others, each of which has to be compiled, are in `make test-all`."""
BLOCKS, BLOCK_TOKENS = 8, 2
ALL = range(1, BLOCKS + 1)
PROMPTS = [
    (0,) * 3,
    (0,) * 4,
    (0,) * 6,
    (0, 0, 1),
    (0, 0, 0, 0, 1, 1),
    (1, 1, 0),
    (1, 1, 1, 1, 1, 1, 1, 1, 1),
    (1,) * 12,
]

Name = tuple[int, ...]


def make_request(name: str, tokens: Name) -> Request:
    def hash_blocks(request: Request) -> list[BlockHash]:
        first = (len(request.block_hashes) + 1) * BLOCK_TOKENS
        return [
            BlockHash(hashlib.sha256(bytes(request.all_token_ids[:end])).digest())
            for end in range(first, request.num_tokens + 1, BLOCK_TOKENS)
        ]

    return Request(name, list(tokens), SamplingParams(max_tokens=9), None, block_hasher=hash_blocks)


class PoolMachine(RuleBasedStateMachine):
    """The model knows which block caches which prefix and who uses it; the policy's choice alone is not in it."""

    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        self.manager: Any = make_manager(BLOCKS)
        self.online = OnlineCache(self.policy, online_context(self.policy, BLOCKS))
        self.heard: list[int] = []
        tell = self.online.serve

        def serve(category: int, request: int, hittable: int, facts: RequestFacts) -> None:
            self.heard += [request] if request >= 0 else []
            tell(category, request, hittable, facts)

        self.online.serve = serve  # type: ignore[method-assign]
        adopt(self.manager, self.online, lambda request: Description(int(request.request_id)))
        self.running: list[Request] = []
        self.tables: dict[str, list[int]] = {}
        self.name: dict[int, Name] = {}
        self.copies: dict[Name, list[int]] = {}
        self.started = self.evicted = 0

    def users(self, block: int) -> int:
        return sum(block in table for table in self.tables.values())

    def is_leaf(self, block: int) -> bool:
        name = self.name[block]
        return len(self.copies[name]) > 1 or not any(other[:-BLOCK_TOKENS] == name for other in self.copies)

    def forget(self, block: int) -> None:
        name = self.name.pop(block)
        self.copies[name].remove(block)
        if not self.copies[name]:
            del self.copies[name]

    def grow(self, request: Request, new_tokens: int, hit: Any = None, hit_blocks: tuple[int, ...] = ()) -> bool:
        """Computes tokens of a request, which may take blocks; returns whether there was room."""
        table = [*self.tables.get(request.request_id, []), *hit_blocks]
        end = request.num_computed_tokens + len(hit_blocks) * BLOCK_TOKENS + new_tokens
        free = {block for block in ALL if not self.users(block)} - set(hit_blocks)
        blank = [block for block in free if block not in self.name]
        needed = -(-end // BLOCK_TOKENS) - len(table)
        new = self.manager.allocate_slots(request, new_tokens, len(hit_blocks) * BLOCK_TOKENS, hit)
        assert (new is not None) == (needed <= len(free))
        if new is None:
            return False
        taken = new.get_block_ids()[0]
        assert len(taken) == needed
        self.tables[request.request_id] = table + taken
        assert self.manager.get_block_ids(request.request_id)[0] == table + taken
        gone = [block for block in taken if block in self.name]
        assert set(taken) <= free
        assert len(gone) == max(0, needed - len(blank))
        for block in gone:
            assert self.is_leaf(block)
            self.forget(block)
        self.evicted += len(gone)
        before = request.num_computed_tokens // BLOCK_TOKENS or len(hit_blocks)
        for place in range(before, end // BLOCK_TOKENS):
            block, name = (table + taken)[place], tuple(request.all_token_ids[: (place + 1) * BLOCK_TOKENS])
            self.name[block] = name
            self.copies.setdefault(name, []).append(block)
        request.num_computed_tokens = end
        return True

    def admit(self, request: Request, most_tokens: int) -> None:
        """Looks a prompt up and computes its first chunk; a prompt for which there is no room does not wait."""
        tokens = request.all_token_ids
        found: list[int] = []
        while (end := (len(found) + 1) * BLOCK_TOKENS) < request.num_tokens and tuple(tokens[:end]) in self.copies:
            found.append(self.copies[tuple(tokens[:end])][0])
        hit, hit_tokens, _ = self.manager.get_computed_blocks(request)
        assert (hit.get_block_ids()[0], hit_tokens) == (found, len(found) * BLOCK_TOKENS)
        if self.grow(request, min(most_tokens, request.num_tokens - hit_tokens), hit, tuple(found)):
            request.status = RequestStatus.RUNNING
            self.running.append(request)

    @rule(prompt=st.sampled_from(PROMPTS), chunk=st.integers(1, 12), is_done=st.booleans())
    def start(self, prompt: Name, chunk: int, is_done: bool) -> None:
        """A request begins with a chunk of its prompt, or is computed whole and ends."""
        request = make_request(str(self.started), prompt)
        self.started += 1
        self.admit(request, len(prompt) if is_done else chunk)
        if is_done and request in self.running:
            self.stop(request)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), chunk=st.integers(1, 6), token=st.integers(0, 1))
    def compute(self, data: st.DataObject, chunk: int, token: int) -> None:
        """A request computes more of its prompt, or a generated token; where there is no room, another is preempted."""
        request = data.draw(st.sampled_from(self.running))
        if request.num_computed_tokens == request.num_tokens:
            request.append_output_token_ids(token)
        chunk = min(chunk, request.num_tokens - request.num_computed_tokens)
        if not self.grow(request, chunk):
            self.preempt(self.running[-1])

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        self.stop(data.draw(st.sampled_from(self.running)))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), chunk=st.integers(1, 12))
    def preempt_and_return(self, data: st.DataObject, chunk: int) -> None:
        request = data.draw(st.sampled_from(self.running))
        self.preempt(request)
        self.admit(request, chunk)

    def preempt(self, request: Request) -> None:
        self.stop(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        request.num_preemptions += 1

    def stop(self, request: Request) -> None:
        self.manager.free(request)
        self.running.remove(request)
        del self.tables[request.request_id]

    @precondition(lambda self: self.name)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """Cached blocks lose their hash from outside, used or not, leaves or not."""
        blocks = data.draw(st.sets(st.sampled_from(sorted(self.name)), min_size=1, max_size=2))
        self.manager.evict_blocks(blocks)
        for block in blocks:
            self.forget(block)

    @rule()
    def reset(self) -> None:
        """A reset is refused while a request runs, and then changes nothing."""
        done = self.manager.reset_prefix_cache()
        assert done == (not self.running)
        if done:
            self.name, self.copies = {}, {}

    @invariant()
    def every_block_is_in_one_place(self) -> None:
        pool = self.manager.block_pool
        used = {block for table in self.tables.values() for block in table}
        free = [block.block_id for block in pool.free_block_queue.get_all_free_blocks()]
        assert sorted(free) == sorted(set(ALL) - used)
        assert pool.get_num_free_blocks() == len(free)
        assert [pool.blocks[block].ref_cnt for block in ALL] == [self.users(block) for block in ALL]
        assert {block for block in ALL if pool.blocks[block].block_hash is not None} == set(self.name)
        assert {block for block in ALL if self.online.caches(block)} == set(self.name)
        assert set(self.online.held()) == set(self.name) - used
        assert self.online.evicted_blocks == self.evicted
        # A policy hears once that a request starts: not of later chunks, nor of a return.
        assert len(set(self.heard)) == len(self.heard)


@pytest.mark.parametrize(
    "policy", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in POOLED]
)
def test_only_free_leaves_are_evicted_when_nothing_else_is_left_and_no_block_is_lost(policy: str) -> None:
    machine = type("Machine", (PoolMachine,), {"policy": policy})
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    few = settings(
        max_examples=20,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
    )
    run_state_machine_as_test(machine, settings=few)
