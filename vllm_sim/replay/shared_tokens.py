"""What a trace has to share: for each prompt the longest beginning that any earlier request has computed, in tokens.

No cache can hit more: here nothing is evicted, one cache serves all, and a hit ends at any token, the last one of a
prompt included. Of an earlier request its prompt and its generated tokens count, without the last one, which is never
computed. Blocks are compared first, by the nodes of `link`; only where the first unknown block begins are tokens.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from vllm_sim.eviction.chains import Array, Chains
from vllm_sim.trace.tokens import TokenisedTrace

Tokens = npt.NDArray[np.int32]


def shared_tokens(trace: TokenisedTrace, chains: Chains, salt: Array, block_size: int) -> Array:
    """Tokens of each prompt, [n].

    Args:
        trace: the rows' tokens.
        chains: their blocks, linked by vLLM's rules.
        salt: [n]; rows share nothing with those of another salt.
        block_size: of the chains.
    """
    count = chains.need.size
    rows = np.repeat(np.arange(count), np.diff(chains.begins))
    _, places = np.unique(chains.nodes, return_index=True)
    first_row, first_place = rows[places], places - chains.begins[rows[places]]
    branches: dict[int, list[bytes]] = {}
    shared = np.zeros(count, np.int64)
    for row in range(count):
        nodes = chains.nodes[chains.begins[row] : chains.begins[row + 1]]
        known = _leading(first_row[nodes] < row)
        prompt, tokens = int(trace.prompt_lengths[row]), _computed(trace, row)
        within = min(known, prompt // block_size)
        shared[row] = within * block_size
        for place in dict.fromkeys((within, known)):  # where the prompt leaves what is known, and where the row does
            parent = int(nodes[place - 1]) if place else -1 - int(salt[row])
            begin = place * block_size
            if place == within:
                piece = tokens[begin : min(prompt, begin + block_size)]
                others = _neighbours(branches.get(parent, []), _key(piece))
                if parent >= 0:
                    origin, next_place = int(first_row[parent]), int(first_place[parent]) + 1
                    others.append(_computed(trace, origin)[next_place * block_size :][:block_size])
                shared[row] += max((_common(piece, other) for other in others), default=0)
            if place == known:
                insort(branches.setdefault(parent, []), _key(tokens[begin : begin + block_size]))
    return shared


def _computed(trace: TokenisedTrace, row: int) -> Tokens:
    return np.concatenate([trace.prompt(row), trace.response(row)[:-1]])


def _leading(flags: npt.NDArray[np.bool_]) -> int:
    """How many are set before the first that is not."""
    clear = np.flatnonzero(~flags)
    return int(clear[0]) if clear.size else flags.size


def _key(tokens: Tokens) -> bytes:
    """Bytes that are in the order of the tokens."""
    return tokens.astype(">u4").tobytes()


def _neighbours(ordered: list[bytes], key: bytes) -> list[Tokens]:
    """Those of some tokens that share most with a key: they stand next to its place."""
    place = bisect_left(ordered, key)
    found: Iterable[bytes] = ordered[max(0, place - 1) : place + 1]
    return [np.frombuffer(one, ">u4").astype(np.int32) for one in found]


def _common(one: Tokens, other: Tokens) -> int:
    """How many tokens are equal from the first one on."""
    least = min(one.size, other.size)
    return _leading(one[:least] == other[:least])
