"""A conversation that is likely to go on stays; the longer it was left alone, the less.

Source: Yang, Li, Li, Lloyd, "Learned prefix caching for efficient LLM inference" (LPC), NeurIPS 2025: a model reads the
text of a conversation and predicts whether it will go on; that chance and the time since the last use rank blocks. Here
a policy sees no text. The predictor is a method, `continues`, which a subclass can replace; this one is the share of
earlier requests that went on, by turn and by generated blocks, with `prior` successes in twice as many trials. The
chance halves with every `half_life` times as many computed blocks as there are. Not as there: only leaves are evicted;
chances are in 16 steps; a request that nobody continued for as long as it is known (continuations.py) did not go on.
"""

import numpy as np

from vllm_sim.eviction.compiled import compiled
from vllm_sim.eviction.continuations import CONTINUES, Continuations
from vllm_sim.eviction.policy import Policy, PolicyContext, RequestFacts
from vllm_sim.eviction.prefix_index import PrefixIndex

STEPS = 16
TURNS, LENGTHS = 6, 8


@compiled
class LearnedPrefix(Policy):
    """A queue for each step of the chance, each of them LRU.

    Args:
        context: see Policy.
        half_life: see above.
        prior: see above.

    Raises:
        ValueError: a value is out of range.
    """

    queues = STEPS

    def __init__(self, context: PolicyContext, half_life: float = 1.0, prior: float = 2.0):
        super().__init__(context)
        for name, value, low in (("half_life", half_life, 1e-3), ("prior", prior, 1e-3)):
            if not low <= value <= 1e9:
                raise ValueError(f"{name} is {value}; allowed: {low} to 1e9")
        self.ghosts = context.blocks
        self.half_life = float(half_life) * context.blocks
        self.prior = float(prior)
        self.now = 0
        self.sessions = Continuations(context.nodes)
        self.facts_matched = 0
        self.left = np.zeros(context.nodes, np.int64)
        self.step = np.zeros(context.nodes, np.int64)
        self.ended = np.zeros((TURNS, LENGTHS))
        self.went_on = np.zeros((TURNS, LENGTHS))

    def continues(self, turn: int, generated_blocks: int) -> float:
        """The chance that a conversation goes on after this turn (0 for its first one), which generated so much."""
        i, j = self.cell(turn, generated_blocks)
        return (self.went_on[i, j] + self.prior) / (self.ended[i, j] + 2 * self.prior)

    def cell(self, turn: int, generated_blocks: int) -> tuple[int, int]:
        return min(turn, TURNS - 1), min(int(np.log2(generated_blocks + 1.0)), LENGTHS - 1)

    def serves(self, facts: RequestFacts) -> None:
        self.sessions.prompt_end = facts.prompt_blocks
        self.facts_matched = facts.matched

    def started(self, request: int, hittable: int) -> None:
        self.count_ended()
        self.sessions.start(self.sessions.prompt_end, self.facts_matched)

    def count_ended(self) -> None:
        """Counts the request before, whose blocks are all cached where requests come one after the other."""
        place = self.sessions.place(self.sessions.present)
        if place >= 0:
            i, j = self.cell(self.sessions.turn[place], self.sessions.generated_blocks[place])
            self.ended[i, j] += 1

    def hit(self, node: int) -> None:
        sessions = self.sessions
        if sessions.hit(node) and sessions.kind[sessions.place(sessions.present)] == CONTINUES:
            before = sessions.place(sessions.before)
            i, j = self.cell(sessions.turn[before], sessions.generated_blocks[before])
            self.went_on[i, j] += 1

    def cached(self, node: int, parent: int) -> None:
        self.now += 1
        self.sessions.cache(node, parent)

    def released(self, node: int) -> None:
        self.left[node] = self.now
        place = self.sessions.place(self.sessions.request[node])
        chance = 0.5
        if place >= 0:
            chance = self.continues(self.sessions.turn[place], self.sessions.generated_blocks[place])
        self.step[node] = max(0, min(STEPS - 1, int(chance * STEPS)))

    def rank(self, node: int, copies: int, stamp: int) -> tuple[int, int]:
        return self.step[node], stamp

    def victim(self, index: PrefixIndex) -> int:
        best, lowest = -1, 0.0
        for queue in range(STEPS):
            block = index.leaves.first(queue)
            if block >= 0:
                age = (self.now - self.left[index.node[block]]) / self.half_life
                score = np.log2((queue + 0.5) / STEPS) - age
                if best < 0 or score < lowest:
                    best, lowest = block, score
        return best

    def forgotten(self, node: int) -> None:
        self.sessions.forget(node)
