"""Draws the configurations and workloads of a search: the number and the seed alone decide what a case is.

Two of three cases are tight: long answers, all sessions at once, and a cache of one to one and a half times the largest
request. Blocks are evicted and requests preempted there, and with small budgets they come back in chunks that end
inside their output. The rest is anything from one request at a time to a cache for all.
"""

import random
from dataclasses import replace
from typing import NamedTuple

from parity.model import MODELS
from parity.workload import Case, Shape, fitted, largest_tokens, make_asks
from vllm_sim.eviction.registry import POLICIES

LIVE = tuple(name for name in POLICIES if name != "belady")
"""The policies that need not know the future."""
TIER = tuple(name for name in LIVE if name not in ("lru", "arc"))
"""Those of them that go by their names on CPU memory, where vLLM's own have these two."""
OF_GROUPS = tuple(name for name, model in MODELS.items() if model.groups != ("full",))
"""The models whose layers do not all keep the same."""
BLOCK_SIZES = (32, 64, 96, 128)
REQUESTS = (15, 20)
"""The fewest and the most of a case, but for those that make its last session whole."""
CASES_OF_A_SEED = 10_000


class Drawn(NamedTuple):
    """A case of a search."""

    number: int
    """From 1."""
    is_tight: bool
    case: Case


def draw(seed: int, number: int, has_tier: bool = False) -> Drawn:
    """The case of a number.

    Args:
        seed: of the search.
        number: from 1, and below CASES_OF_A_SEED.
        has_tier: whether the case must have CPU memory; else three of ten have.
    """
    rng = random.Random(f"{seed} {number}")
    is_tight = number % 3 != 0
    block_size = rng.choice(BLOCK_SIZES)
    shape = _shape(rng, is_tight, block_size)
    case = Case(
        seed=seed * CASES_OF_A_SEED + number,
        policy=rng.choice(LIVE),
        async_scheduling=rng.random() < 0.5,
        sessions=-(-rng.randint(*REQUESTS) // shape.turns),
        concurrency=_concurrency(rng, is_tight),
        block_size=block_size,
        scheduling_policy="priority" if len(shape.priorities) > 1 else "fcfs",
        scheduler_reserve_full_isl=rng.random() < 0.6,
        shape=shape,
    )
    case = _with_limits(rng, case, is_tight)
    if rng.random() < 0.3 or has_tier:  # drawn last, so that what a seed draws besides stays what it was
        case = _with_tier(rng, case)
    elif rng.random() < 0.5:
        room = rng.uniform(1.0, 1.5) if is_tight else rng.choice((1.0, 2.0, 5.0, 20.0))
        model = rng.choice([name for name in OF_GROUPS if MODELS[name].takes(block_size)])
        case = fitted(replace(case, model=model), room)
    return Drawn(number, is_tight, case)


def _with_tier(rng: random.Random, case: Case) -> Case:
    """The case with CPU memory that holds its largest prompt."""
    blocks = round(case.capacity_blocks * rng.choice((1.0, 2.0, 10.0)))
    copy_steps, chunk_blocks = rng.choice((1, 2, 7)), rng.choice((1, 1, 2))
    return replace(
        case,
        tier_chunks=max(1, blocks // chunk_blocks),
        copy_steps=copy_steps,
        chunk_blocks=chunk_blocks,
        tier_policy=rng.choice(("lru", "lru", "arc", *TIER)),
        tier_threshold=rng.choice((1, 1, 2)),
        tier_prompt_only=rng.random() < 0.7,
    )


def _shape(rng: random.Random, is_tight: bool, block_size: int) -> Shape:
    turns = rng.choice((1, 2, 3, 4))
    answers = rng.choice(((40, 90), (60, 120)) if is_tight else ((1, 12), (2, 50), (30, 90)))
    return Shape(
        systems=_lengths(rng, 3, 250),
        firsts=_lengths(rng, 4, 300),
        repeated=block_size * rng.choice((1, 2, 3)),
        turns=turns,
        added=(1, rng.choice((2, 20, 80))),
        answers=answers,
        end_bias=rng.choice((5.0, 6.0, 7.0) if is_tight else (5.0, 7.0, 8.0)),
        gaps=rng.choice(((0,), (0, 0, 1)) if is_tight else ((0,), (0, 0, 2, 9), (0, 40), (300,))),
        thinking=(0, rng.choice((1, 12, 60))),
        priorities=rng.choice(((0,), (0,), (0, 1), (-3, 0, 5, 9))),
    )


def _lengths(rng: random.Random, count: int, most: int) -> tuple[int, ...]:
    return tuple(rng.randint(1, most) for _ in range(count))


def _concurrency(rng: random.Random, is_tight: bool) -> int | None:
    """None: an open loop."""
    return rng.choice((None, 6, 10, 16) if is_tight else (None, 1, 2, 8))


def _with_limits(rng: random.Random, case: Case, is_tight: bool) -> Case:
    """The case with limits that its largest request can be served in."""
    largest = largest_tokens(make_asks(case.seed, case.sessions, case.shape))
    need_blocks = -(-largest // case.block_size)
    room = rng.uniform(1.0, 1.5) if is_tight else rng.choice((1.0, 2.0, 5.0, 20.0))
    capacity_blocks = round(need_blocks * room)
    max_model_len = rng.choice((largest, capacity_blocks * case.block_size))
    seqs = rng.choice((5, 8, 12, 16) if is_tight else (1, 2, 5, 16))
    budget = rng.choice((64, 64, 100, 128, 200, 256) if is_tight else (64, 150, 512, 2048, 8192))
    is_chunked = budget < max_model_len or rng.random() < 0.5  # a whole prompt must fit a step's budget else
    return replace(
        case,
        capacity_blocks=capacity_blocks,
        max_model_len=max_model_len,
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        enable_chunked_prefill=is_chunked,
        long_prefill_token_threshold=rng.choice((0, 0, 0, 16, 33, 80)) if is_chunked else 0,
    )
