"""The requests of a comparison, made from a seed. Needs neither vLLM nor torch: both environments make the same ones.

Sessions of three turns over a few long system prompts; a turn's prompt holds the whole conversation before it, what
was generated included. Some prompts are longer than a step's budget (chunked prefill), some are whole blocks and sent
twice (vLLM computes the last block again), and the cache is small (evictions, preemptions).
"""

import random
from dataclasses import dataclass

BLOCK_SIZE = 32
"""The CPU's attention wants multiples of 32."""
FIRST_TOKEN, LAST_TOKEN = 1000, 100_000
END_TOKEN, END_BIAS = 128009, 8.0
END_SHARE = 0.023
"""With random weights all logits are near 0. The bias gives the end token this share of what is generated, and no
scheduler foresees the end."""
TURNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One engine and what it serves."""

    seed: int
    policy: str = "lru"
    async_scheduling: bool = False
    sessions: int = 70
    concurrency: int | None = None
    """None: as many as arrive."""
    block_size: int = BLOCK_SIZE
    executor: str = "RowExecutor"
    """The simulator's; LateExecutor is wrong on purpose."""
    capacity_blocks: int = 90
    max_num_seqs: int = 12
    max_num_batched_tokens: int = 256
    max_model_len: int = 2048

    @property
    def name(self) -> str:
        parts = [self.policy, "async" if self.async_scheduling else "sync", f"seed{self.seed}"]
        return "-".join(parts + ([f"concurrency{self.concurrency}"] if self.concurrency else []))


@dataclass(frozen=True, slots=True)
class Ask:
    """One request."""

    row: int
    tokens: list[int]
    """The prompt, or what it adds to the conversation before it."""
    max_tokens: int
    after_row: int | None
    """The turn before, whose prompt and answer begin this prompt; or None."""
    step: int
    """Step of arrival; with after_row so many steps after its end."""


def make_asks(seed: int, sessions: int) -> list[Ask]:
    """Three turns a session, each session's rows in a sequence."""
    rng = random.Random(seed)

    def text(length_tokens: int) -> list[int]:
        return [rng.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(length_tokens)]

    systems = [text(length) for length in (40, 96, 128, 230)]
    repeated = text(4 * BLOCK_SIZE)
    asks: list[Ask] = []
    step = 0
    for session in range(sessions):
        step += rng.choice((0, 0, 2, 9))
        first = repeated if session % 10 == 3 else rng.choice(systems) + text(rng.choice((8, 25, 60, 300)))
        for turn in range(TURNS):
            asks.append(
                Ask(
                    row=len(asks),
                    tokens=text(rng.randrange(5, 70)) if turn else first,
                    max_tokens=rng.randrange(2, 90),
                    after_row=len(asks) - 1 if turn else None,
                    step=rng.randrange(0, 12) if turn else step,
                )
            )
    return asks


def make_answers(asks: list[Ask], seed: int) -> dict[int, tuple[list[int], list[int]]]:
    """Prompt and answer of each row, drawn from the seed: what a real model would generate, for want of one."""
    rng = random.Random(seed)
    served: dict[int, tuple[list[int], list[int]]] = {}
    for ask in asks:
        prompt, before = ([], []) if ask.after_row is None else served[ask.after_row]
        answer: list[int] = []
        while len(answer) < ask.max_tokens and END_TOKEN not in answer[-1:]:
            answer.append(END_TOKEN if rng.random() < END_SHARE else rng.randrange(FIRST_TOKEN, LAST_TOKEN))
        served[ask.row] = prompt + before + ask.tokens, answer
    return served
