"""Which earlier request a request continues, as far as a cache can see it: by the node at which its match ends.

A server is not given sessions. A request continues another one if its match ends within a block of that one's last full
prompt block or later, and the last request that used the node there was that one: a system prompt that many share ends
nobody's prompt. For a policy, which passes on what it is called with; see Policy for the order of the calls.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled

NEW, SHARES, CONTINUES = range(3)
"""Kinds of requests: less than half of the prompt was found; more, but it continues none; it continues another one."""
_MOST_REQUESTS = 2**16


@compiled
class Continuations:
    """The latest requests, and for each node the one that used it last.

    Attributes:
        request: the request that used a node last, -1 for none; [nodes]. Numbers are of these calls, ascending.
        depth: blocks before a node in its prompt; [nodes].
        tip: the node at which the present request's match ended, -1 where nothing matched.
        kind, turn, prompt_blocks, new_blocks, generated_blocks: of a request, at `place(request)`.

    Args:
        nodes: node numbers are below this.
    """

    def __init__(self, nodes: int):
        self.request = np.full(nodes, -1, np.int32)
        self.depth = np.zeros(nodes, np.int32)
        size = min(nodes, _MOST_REQUESTS) + 1
        self.number = np.full(size, -1, np.int64)
        self.kind = np.zeros(size, np.int32)
        self.turn = np.zeros(size, np.int32)
        self.prompt_blocks = np.zeros(size, np.int32)
        self.new_blocks = np.zeros(size, np.int32)
        self.generated_blocks = np.zeros(size, np.int32)
        self.present = -1
        self.to_match = 0
        self.tip = -1
        self.before = -1
        # Of the request that is served, which may be another one than the last that started.
        self.prompt_end = 0

    def place(self, request: int) -> int:
        """Where the arrays have a request, -1 for one that is no more known."""
        if request < 0 or self.number[request % self.number.size] != request:
            return -1
        return request % self.number.size

    def start(self, prompt_blocks: int, matched: int) -> None:
        """A request starts, which becomes the present one."""
        self.present += 1
        place = self.present % self.number.size
        self.number[place] = self.present
        self.kind[place] = NEW
        self.turn[place] = 0
        self.prompt_blocks[place] = prompt_blocks
        self.new_blocks[place] = max(0, prompt_blocks - matched)
        self.generated_blocks[place] = 0
        self.to_match = matched
        self.tip = -1
        self.before = -1

    def hit(self, node: int) -> bool:
        """A node is used again; returns whether the match of the present request ends there."""
        ends = self.to_match == 1
        if self.to_match > 0:
            self.to_match -= 1
        if ends:
            self.match(node)
        self.request[node] = self.present
        return ends

    def match(self, tip: int) -> None:
        self.tip = tip
        place, before = self.present % self.number.size, self.place(self.request[tip])
        matched = self.depth[tip] + 1
        if before >= 0 and before != place and matched >= self.prompt_blocks[before] - 1:
            self.kind[place] = CONTINUES
            self.turn[place] = self.turn[before] + 1
            self.before = self.number[before]
        elif 2 * matched > self.prompt_blocks[place]:
            self.kind[place] = SHARES

    def cache(self, node: int, parent: int) -> bool:
        """A node is cached by the request that used its parent last; returns whether it holds generated tokens."""
        request = self.present if parent < 0 else self.request[parent]
        place = self.place(request)
        self.request[node] = request
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0
        generated = self.depth[node] >= self.prompt_end
        if place >= 0 and generated:
            self.generated_blocks[place] += 1
        return generated

    def forget(self, node: int) -> None:
        self.request[node] = -1
