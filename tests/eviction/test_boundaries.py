"""Which blocks no hit can use, against a search of all boundaries by the definition."""

import random

import pytest

from vllm_sim.eviction.boundaries import Boundaries
from vllm_sim.eviction.boundary_tree import Keeps

FULL, WINDOW, STATE = Keeps(1), Keeps(1, 3), Keeps(2, 1)
CACHES = {
    "windows": ([WINDOW, FULL], 1),
    "windows and wide blocks": ([WINDOW, Keeps(2)], 2),
    "wide windows": ([Keeps(2, 2), FULL], 2),
    "chunks": ([Keeps(1, 4, 4), FULL], 1),
    "states": ([STATE, STATE, Keeps(2)], 2),
    "states at every unit": ([STATE, Keeps(2)], 1),
    "a window alone": ([WINDOW], 1),
}


def needs(groups: list[Keeps], depth: int) -> list[tuple[int, int]]:
    """(group, depth) of all blocks that a boundary needs."""
    found = []
    for group, keeps in enumerate(groups):
        size = keeps.block_units
        ends = [depth - size * place for place in range(-(-depth // size))]
        if keeps.chunk_units:
            ends = [end for end in ends if end - size >= depth // keeps.chunk_units * keeps.chunk_units]
        elif keeps.last_blocks is not None:
            ends = ends[: keeps.last_blocks]
        else:
            ends = [depth, *range(size, depth, size)] if depth % size else [*range(size, depth + 1, size)]
        found += [(group, end) for end in ends]
    return found


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("seed", range(3))
def test_dead_are_the_idle_blocks_that_no_boundary_needs(cache: str, seed: int) -> None:
    groups, alignment = CACHES[cache]
    draw, boundaries = random.Random(seed), Boundaries(groups, alignment, 150)
    chains = [tuple(draw.choices(range(2), k=12)) for _ in range(4)]
    cached: dict[int, tuple[int, tuple[int, ...]]] = {}
    idle: set[int] = set()
    seen_dead = seen_alive = 0
    for block in range(1, 150):
        chain, group = draw.choice(chains), draw.randrange(len(groups))
        size = groups[group].block_units
        depth = draw.randrange(size, 13, size)
        if cache == "states at every unit" and draw.random() < 0.5:
            depth = draw.randrange(1, 13)
        names = [bytes(chain[:end]) for end in range(1, 13)]
        boundaries.add(names, depth, group, block)
        cached[block] = group, chain[:depth]
        for other in draw.sample(sorted(cached), k=min(2, len(cached))):
            if draw.random() < 0.7:
                boundaries.release([other])
                idle.add(other)
            else:
                boundaries.touch(other)
                idle.discard(other)
        while len(cached) > draw.randrange(10, 60):
            gone = draw.choice(sorted(cached))
            boundaries.remove(gone)
            del cached[gone]
            idle.discard(gone)
        keys = set(cached.values())
        needed = set()
        for chain in {chain[:end] for chain in chains for end in range(alignment, 13, alignment)}:
            wanted = {(group, chain[:end]) for group, end in needs(groups, len(chain))}
            # Of a full group the end alone is looked at: its blocks are evicted from the end, so the others are there.
            looked = {
                (group, prefix) for group, prefix in wanted if groups[group].last_blocks is not None or prefix == chain
            }
            if looked <= keys:
                needed |= wanted
        expected = {block for block in idle if cached[block] not in needed}
        assert set(boundaries.dead()) == expected
        seen_dead += len(expected)
        seen_alive += len(idle) - len(expected)
    assert seen_dead > 50
    assert seen_alive > 10
    for block in cached:
        boundaries.remove(block)
    assert not boundaries._prefixes


def test_the_end_of_a_prefix_goes_first_once_its_only_boundary_is_gone() -> None:
    boundaries = Boundaries([WINDOW, FULL], 1, 20)
    names = [bytes(end) for end in range(1, 7)]
    for depth in range(1, 7):
        boundaries.add(names, depth, 1, depth)
    for depth in (4, 5, 6):
        boundaries.add(names, depth, 0, 10 + depth)
    boundaries.release([16, 15, 14, 6, 5, 4, 3, 2, 1])
    assert boundaries.first_dead() is None
    boundaries.remove(15)
    assert boundaries.dead() == [16, 6, 5, 14, 4, 3, 2, 1]
