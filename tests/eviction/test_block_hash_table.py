"""Numbers of nodes by name, against a dictionary; the names are chosen so that many are in the same list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_sim.eviction.block_hash_table import BlockHashTable, number
from vllm_sim.eviction.compiled import native
from vllm_sim.eviction.online_cache import OnlineCache, online_context
from vllm_sim.eviction.policies.fifo import Fifo
from vllm_sim.eviction.policy import PolicyContext
from vllm_sim.eviction.prefix_index import FORGOTTEN, PrefixIndex

NODES = 6


def make_index(nodes: int) -> PrefixIndex:
    return PrefixIndex(nodes, nodes, Fifo(PolicyContext(nodes, nodes)), recycle=True)


def crowded_names(size: int) -> list[bytes]:
    """Names in two lists of the table."""
    table = BlockHashTable(make_index(NODES))
    found: list[bytes] = []
    number = 0
    with np.errstate(over="ignore"):
        while len(found) < 12:
            # Some differ in the first word alone, some in the last.
            name = number.to_bytes(size, "little" if len(found) % 2 else "big")
            if table.place(np.bitwise_xor.reduce(np.frombuffer(name, np.int64))) < 2:
                found.append(name)
            number += 1
    return found


CROWDED = {size: crowded_names(size) for size in (16, 32)}


@settings(deadline=None)
@given(size=st.sampled_from(sorted(CROWDED)), data=st.data())
def test_names_keep_their_numbers_until_they_are_forgotten(size: int, data: st.DataObject) -> None:
    index = make_index(NODES)
    table, known = native(BlockHashTable(index)), dict[bytes, int]()
    unused = list(range(NODES - 1, -1, -1))
    for _ in range(data.draw(st.integers(1, 30))):
        gone = data.draw(st.sets(st.sampled_from(sorted(known)))) if known else set()
        nodes = [known.pop(name) for name in sorted(gone)]
        for node in nodes:
            index.first[node], index.counts[FORGOTTEN] = -2 - index.counts[FORGOTTEN], node
        unused += nodes[::-1]
        wanted = data.draw(st.lists(st.sampled_from(CROWDED[size]), min_size=1, max_size=4))
        if len(known | dict.fromkeys(wanted)) > NODES:
            wanted = [min(known)] if known else wanted[:1]
        for name in wanted:
            if name not in known:
                known[name] = unused.pop()
        nodes = np.empty(len(wanted), np.int64)
        number(table, np.frombuffer(b"".join(wanted), np.int64), nodes)
        assert nodes.tolist() == [known[name] for name in wanted]


@pytest.mark.parametrize(
    "given_names", [[b"x" * 12], [b"x" * 40], [b""], [b"x" * 16, b"x" * 24], [b"x" * 32, b"x" * 16]]
)
def test_hashes_of_another_length_are_refused(given_names: list[bytes]) -> None:
    cache = OnlineCache("fifo", online_context("fifo", NODES))
    cache.cache(range(1, len(given_names) + 1), given_names, None, False)
    lengths = ", ".join(sorted({str(len(name)) for name in given_names}))
    with pytest.raises(ValueError, match=rf"block hashes of {lengths} bytes; allowed: 8, 16, 24 or 32"):
        cache.evict(0)
