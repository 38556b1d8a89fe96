"""The index under every policy against a model in plain Python, whatever requests do at the same time."""

import hashlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numba
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from vllm_sim.eviction import online_cache
from vllm_sim.eviction.online_cache import OnlineCache, online_context
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.prefix_index import PrefixIndex
from vllm_sim.eviction.registry import POLICIES, find_policy

BLOCKS = 8
ONLINE = [name for name in POLICIES if name != "belady"]
# A subclass that is not declared for the compiler runs as plain Python.
for _name in ONLINE:
    setattr(sys.modules[__name__], f"plain_{_name}", type(f"plain_{_name}", (find_policy(_name),), {}))

Name = tuple[int, ...]


def digest(name: Name) -> bytes:
    """A block's hash, as an index gets it."""
    return hashlib.sha256(bytes(name)).digest()


@dataclass
class Running:
    """A request: the blocks of its chain, the first `cached` of which are cached."""

    ids: Name
    blocks: list[int]
    cached: int
    returned: bool = False
    names: list[Name] = field(init=False)

    def __post_init__(self) -> None:
        self.names = [self.ids[: end + 1] for end in range(len(self.ids))]


class IndexMachine(RuleBasedStateMachine):
    """Two caches, one compiled and one in plain Python, do the same; the model says what must hold of both."""

    policy = "lru"

    def __init__(self) -> None:
        super().__init__()
        context = online_context(self.policy, BLOCKS)
        self.caches = [OnlineCache(self.policy, context), OnlineCache(f"{__name__}:plain_{self.policy}", context)]
        self.blank = list(range(1, BLOCKS + 1))
        self.copies: dict[Name, list[int]] = {}
        self.name: dict[int, Name] = {}
        self.users: dict[int, int] = {}
        self.running: list[Running] = []
        self.started = self.evicted = 0
        self.orphans = 0
        self.has_dropped = False
        self.released: list[int] = []

    def tell(self, act: Callable[[OnlineCache], Any]) -> Any:
        """Both caches do it, with the same result."""
        first, second = (act(index) for index in self.caches)
        assert first == second
        return first

    def is_leaf(self, block: int) -> bool:
        name = self.name[block]
        has_child = any(other[:-1] == name for other in self.copies)
        return not has_child or len(self.copies[name]) > 1

    def take(self) -> int:
        """A block without a hash if there is one, else an evicted one."""
        if self.blank:
            return self.blank.pop()
        leaves = {block for block, users in self.users.items() if not users and self.is_leaf(block)}
        block = self.tell(lambda index: index.evict(1))[0]
        # What is dropped from outside may leave LRU's list, as vLLM's, with the older copy of a node that has a child.
        assert block in leaves or (self.policy == "lru" and self.has_dropped)
        if self.policy == "lru":
            assert block == next(old for old in self.released if self.users.get(old) == 0)
        self.evicted += 1
        self.forget(block)
        return int(block)

    def forget(self, block: int) -> None:
        name = self.name.pop(block)
        del self.users[block]
        self.copies[name].remove(block)
        if not self.copies[name]:
            del self.copies[name]
        orphans = sum(len(name) > 1 and name[:-1] not in self.copies for name in self.copies)
        self.orphans = max(self.orphans, orphans)

    def admit(self, ids: Name, returned: bool) -> None:
        request = Running(ids, [], 0, returned)
        hits = 0
        # The last block is always computed, as vLLM does with a prompt that ends there.
        while hits < len(ids) - 1 and request.names[hits] in self.copies:
            hits += 1
        hit = [self.copies[name][0] for name in request.names[:hits]]
        free = sum(not users and block not in hit for block, users in self.users.items())
        if len(self.blank) + free < len(ids) - hits:
            return
        self.tell(lambda index: index.serve(0, -1 if returned else self.started, len(ids) - 1))
        self.started += 1
        self.tell(lambda index: index.touch(hit, returned))
        for block in hit:
            self.users[block] += 1
        request.blocks, request.cached = [*hit, *(-1 for _ in ids[hits:])], hits
        for i in range(hits, len(ids)):
            request.blocks[i] = self.take()
        self.running.append(request)

    @rule(ids=st.sampled_from([(0,), (0, 0), (0, 0, 0), (0, 0, 1), (0, 1), (1, 0, 0, 0, 0)]), is_whole=st.booleans())
    def start(self, ids: Name, is_whole: bool) -> None:
        """A request begins, and ends at once where it is whole."""
        before = len(self.running)
        self.admit(ids, returned=False)
        if is_whole and len(self.running) > before:
            self.cache(self.running[-1], len(ids))
            self.release(self.running[-1])

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        """A request computes some of its blocks."""
        request = data.draw(st.sampled_from(self.running))
        self.cache(request, data.draw(st.integers(request.cached, len(request.ids))))

    def cache(self, request: Running, end: int) -> None:
        blocks, names = request.blocks[request.cached : end], request.names[request.cached : end]
        parent = request.names[request.cached - 1] if request.cached else None
        if not blocks or (parent and parent not in self.copies):
            return
        hashes = [digest(name) for name in names]
        self.tell(lambda index: index.cache(blocks, hashes, parent and digest(parent), request.returned))
        for block, name in zip(blocks, names, strict=True):
            self.copies.setdefault(name, []).append(block)
            self.name[block], self.users[block] = name, 1
        request.cached = end

    def release(self, request: Running) -> None:
        self.running.remove(request)
        self.blank += reversed(request.blocks[request.cached :])
        for block in request.blocks[: request.cached]:
            self.users[block] -= 1
        free = [block for block in reversed(request.blocks[: request.cached]) if not self.users[block]]
        self.tell(lambda index: index.release(free))
        self.released = [block for block in self.released if block not in free] + free

    @precondition(lambda self: self.running)
    @rule(data=st.data(), comes_back=st.booleans())
    def end(self, data: st.DataObject, comes_back: bool) -> None:
        """A request ends, or is preempted and comes back."""
        request = data.draw(st.sampled_from(self.running))
        self.release(request)
        if comes_back:
            self.admit(request.ids, returned=True)

    @precondition(lambda self: any(not users for users in self.users.values()))
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """A held block loses its hash from outside, whether it is a leaf or not."""
        block = data.draw(st.sampled_from(sorted(block for block, users in self.users.items() if not users)))
        self.tell(lambda index: index.drop(block))
        self.has_dropped = True
        self.forget(block)
        self.blank.append(block)

    @precondition(lambda self: not self.running and self.users)
    @rule()
    def reset(self) -> None:
        for block in self.tell(lambda index: index.held()):
            self.tell(lambda index, block=block: index.drop(block))
            self.forget(block)
            self.blank.append(block)
        assert not self.users

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        held = {block for block, users in self.users.items() if not users}
        assert set(self.tell(lambda index: index.held())) == held
        for block in range(1, BLOCKS + 1):
            assert self.tell(lambda index, block=block: index.caches(block)) == (block in self.users)
            assert self.tell(lambda index, block=block: index.holds(block)) == (block in held)
        assert self.tell(lambda index: index.evicted_blocks) == self.evicted
        assert self.tell(lambda index: index.orphan_blocks) == self.orphans
        leaves = {block for block in held if self.is_leaf(block)}
        # In order all held blocks are in the index's list, and `take` looks at the first.
        offered = held if self.policy == "lru" else leaves
        plain = self.caches[1]._index
        assert {block for block in range(1, BLOCKS + 1) if plain.offers(block)} == offered
        for queue in range(plain.leaves.root.size if plain.both_ends else 0):
            ranks = [
                (plain.leaves.key[block], plain.leaves.tie[block], block)
                for block in offered
                if plain.leaves.queue[block] == queue
            ]
            assert plain.back.first(queue) == (max(ranks)[2] if ranks else -1)


@pytest.mark.parametrize("policy", ONLINE)
def test_only_leaves_that_nobody_uses_are_evicted_and_nothing_is_lost(policy: str) -> None:
    machine = type(f"Machine_{policy}", (IndexMachine,), {"policy": policy})
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=40, deadline=None))


def evictions(cache: OnlineCache) -> list[list[int]]:
    """What requests of up to four blocks evict, one after the other."""
    draw, blank, found = random.Random(0), list(range(1, BLOCKS + 1)), []
    blocks: dict[Name, int] = {}
    for number in range(60):
        ids = tuple(draw.choices(range(2), k=draw.randint(1, 4)))
        names = [ids[: end + 1] for end in range(len(ids))]
        hits = next((place for place, name in enumerate(names) if name not in blocks), len(ids))
        cache.serve(0, number, len(ids))
        cache.touch([blocks[name] for name in names[:hits]], False)
        new = [blank.pop() for _ in names[hits:] if blank]
        gone = cache.evict(len(ids) - hits - len(new)) if len(new) < len(ids) - hits else []
        found.append(gone)
        blocks = {name: block for name, block in blocks.items() if block not in gone}
        new += gone
        if new:
            parent = digest(names[hits - 1]) if hits else None
            cache.cache(new, [digest(name) for name in names[hits:]], parent, False)
        blocks |= dict(zip(names[hits:], new, strict=True))
        cache.release([blocks[name] for name in reversed(names)])
    return found


@pytest.mark.parametrize(("policy", "hears"), [("fifo", False), ("plain_fifo", False), ("arc", True), ("hybrid", True)])
def test_a_policy_hears_of_requests_where_it_makes_a_difference(policy: str, hears: bool) -> None:
    name = f"{__name__}:{policy}" if policy.startswith("plain_") else policy
    assert OnlineCache(name, online_context(name, BLOCKS)).hears_requests == hears


@pytest.mark.parametrize("policy", ["lru", "s3fifo", "hybrid"])
def test_it_makes_no_difference_how_long_events_wait_to_be_heard(policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for most in (0, online_cache.MOST_NOTED):
        monkeypatch.setattr(online_cache, "MOST_NOTED", most)
        cache = OnlineCache(f"{__name__}:plain_{policy}", online_context(policy, BLOCKS))
        found.append((evictions(cache), cache.evicted_blocks, cache.held()))
    assert found[0] == found[1]
    assert found[0][1] > 20


def test_copies_stay_one_list_when_the_first_is_dropped() -> None:
    policy = find_policy("fifo")(PolicyContext(BLOCKS, 1))
    index = PrefixIndex(BLOCKS, 1, policy, recycle=True)
    for block in (1, 2, 3):
        index.cache(policy, block, 0, -1, False)
    index.drop(policy, 1)
    index.cache(policy, 4, 0, -1, False)
    assert (index.first[0], index.newer[2:5].tolist(), index.older[2:5].tolist()) == (2, [3, 4, -1], [-1, 2, 3])


def test_ghosts_are_forgotten_sooner_where_numbers_run_out() -> None:
    cache = OnlineCache(f"{__name__}:plain_arc", PolicyContext(BLOCKS, 2 * BLOCKS + 1))
    assert sum(map(len, evictions(cache))) > 20


def test_events_with_and_without_names_are_heard_by_one_compiled_function() -> None:
    cache = OnlineCache("lru", online_context("lru", BLOCKS))
    cache.serve(0, 0, 1)
    cache.cache([1], [digest((0,))], None, False)
    cache.release([1])
    assert cache.held() == [1]
    cache.touch([1], False)
    assert cache.held() == []
    own = [signature for signature in online_cache._hear.signatures if signature[0] == numba.typeof(cache._state)]
    assert len(own) == 1
