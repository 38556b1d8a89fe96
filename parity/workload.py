"""The requests of a comparison, made from a seed. Needs neither vLLM nor torch: both environments make the same ones.

Sessions of some turns over a few long system prompts; a turn's prompt holds the whole conversation before it, what
was generated included. Some prompts are longer than a step's budget (chunked prefill), some are whole blocks and sent
twice (vLLM computes the last block again), and the cache is small (evictions, preemptions).
"""

import random
from dataclasses import dataclass, replace
from typing import Any

from parity.model import END_TOKEN, MODELS

BLOCK_SIZE = 32
"""The CPU's attention wants multiples of 32."""
FIRST_TOKEN, LAST_TOKEN = 1000, 100_000
END_SHARE = 0.023
"""The end token's share of answers that are drawn; no scheduler foresees the end."""
TURNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How long the parts of a workload's requests are, in tokens, and when they come, in steps."""

    systems: tuple[int, ...] = (40, 96, 128, 230)
    """Lengths of the system prompts that the sessions share."""
    firsts: tuple[int, ...] = (8, 25, 60, 300)
    """Lengths that a first prompt may add to its system prompt."""
    repeated: int = 4 * BLOCK_SIZE
    """Length of a first prompt, of whole blocks, that every tenth session sends."""
    turns: int = TURNS
    """Requests of a session."""
    added: tuple[int, int] = (5, 70)
    """A later turn adds at least the first, and less than the second."""
    answers: tuple[int, int] = (2, 90)
    """A request's max_tokens is at least the first, and less than the second."""
    end_bias: float = 8.0
    """With random weights all logits are near 0. 8 gives the end token 2.3 %, and no scheduler foresees the end."""
    gaps: tuple[int, ...] = (0, 0, 2, 9)
    """Steps that may lie between the starts of two sessions."""
    thinking: tuple[int, int] = (0, 12)
    """Steps between an answer and the next turn: at least the first, less than the second."""
    priorities: tuple[int, ...] = (0,)
    """What a request's priority may be."""


USUAL = Shape()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One engine and what it serves."""

    seed: int
    model: str = "llama"
    """One of MODELS."""
    policy: str = "lru"
    async_scheduling: bool = False
    sessions: int = 70
    concurrency: int | None = None
    """None: as many as arrive."""
    block_size: int = BLOCK_SIZE
    executor: str = "RowExecutor"
    """The simulator's; LateExecutor and EagerExecutor are wrong on purpose."""
    capacity_blocks: int = 90
    max_num_seqs: int = 12
    max_num_batched_tokens: int = 256
    max_model_len: int = 2048
    scheduling_policy: str = "fcfs"
    long_prefill_token_threshold: int = 0
    enable_chunked_prefill: bool = True
    scheduler_reserve_full_isl: bool = True
    tier_chunks: int | None = None
    """Chunks that CPU memory holds, by vLLM's OffloadingConnector; None: there is none."""
    copy_steps: int = 2
    """Steps that a copy between the GPU's and CPU memory takes (tier_spec.py)."""
    chunk_blocks: int = 1
    tier_policy: str = "lru"
    """`lru` and `arc` are vLLM's own; any other is one of this package by vLLM's plug-in."""
    tier_threshold: int = 1
    """Offers of a chunk, until it is stored."""
    tier_prompt_only: bool = True
    """Whether generated tokens are not stored."""
    shape: Shape = USUAL

    @classmethod
    def read(cls, values: dict[str, Any]) -> "Case":
        """A case from what JSON makes of it."""
        shape = {name: tuple(value) if isinstance(value, list) else value for name, value in values["shape"].items()}
        return cls(**values | {"shape": Shape(**shape)})

    @property
    def upstream(self) -> dict[str, Any]:
        """Arguments of EngineArgs, by their names, that all sides take from here. Token ids alone go in and out."""
        names = ("scheduling_policy", "long_prefill_token_threshold", "enable_chunked_prefill")
        values = {name: getattr(self, name) for name in (*names, "scheduler_reserve_full_isl")}
        values |= {"dtype": MODELS[self.model].dtype} | self.cache_arguments
        transfer = {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", "kv_connector_extra_config": self.tier}
        tier = {} if self.tier is None else {"kv_transfer_config": transfer}
        return values | tier | {"skip_tokenizer_init": True}

    @property
    def cache_arguments(self) -> dict[str, Any]:
        """Those that make the simulator's cache groups the CPU kernels': their backend, the state that they force."""
        groups = MODELS[self.model].groups
        states = {"mamba_ssm_cache_dtype": "float32"} if "state" in groups else {}
        kernels = {"attention_backend": "CPU_ATTN", "enable_prefix_caching": True}
        return {} if groups == ("full",) else kernels | states

    def needed_blocks(self, tokens: int) -> int:
        """Blocks of the cache that a request needs."""
        batches = 2 if self.async_scheduling else 1
        return MODELS[self.model].needed_blocks(self.block_size, tokens, batches * self.max_num_batched_tokens)

    @property
    def tier(self) -> dict[str, Any] | None:
        """The extra configuration of the OffloadingConnector: a worker that copies nothing, on all sides."""
        if self.tier_chunks is None:
            return None
        spec = {"spec_name": "SteppedSpec", "spec_module_path": "parity.tier_spec", "cpu_bytes_to_use": 1}
        size = {"chunks": self.tier_chunks, "copy_steps": self.copy_steps, "blocks_per_chunk": self.chunk_blocks}
        policy: dict[str, Any] = {"eviction_policy": self.tier_policy}
        if self.tier_policy not in ("lru", "arc"):
            policy["cache_policy_module_path"] = "vllm_sim.engine.tier_policy"
        rule = {"store_threshold": self.tier_threshold, "offload_prompt_only": self.tier_prompt_only}
        return spec | size | policy | rule

    @property
    def policy_params(self) -> dict[str, int]:
        """`hybrid` counts computed blocks: a replay knows arrivals by timestamps, which these rows do not have."""
        return {"clock": 0} if self.policy == "hybrid" else {}

    @property
    def name(self) -> str:
        parts = [] if self.model == "llama" else [self.model]
        parts += [self.policy, "async" if self.async_scheduling else "sync", f"seed{self.seed}"]
        parts += [] if self.tier_chunks is None else [f"tier{self.tier_chunks}"]
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
    priority: int = 0


def make_asks(seed: int, sessions: int, shape: Shape = USUAL) -> list[Ask]:
    """The requests of so many sessions, each session's rows in a sequence."""
    rng = random.Random(seed)

    def text(length_tokens: int) -> list[int]:
        return [rng.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(length_tokens)]

    systems = [text(length) for length in shape.systems]
    repeated = text(shape.repeated)
    asks: list[Ask] = []
    step = 0
    for session in range(sessions):
        step += rng.choice(shape.gaps)
        first = repeated if session % 10 == 3 else rng.choice(systems) + text(rng.choice(shape.firsts))
        for turn in range(shape.turns):
            asks.append(
                Ask(
                    row=len(asks),
                    tokens=text(rng.randrange(*shape.added)) if turn else first,
                    max_tokens=rng.randrange(*shape.answers),
                    after_row=len(asks) - 1 if turn else None,
                    step=rng.randrange(*shape.thinking) if turn else step,
                    priority=rng.choice(shape.priorities) if len(shape.priorities) > 1 else 0,
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


def fitted(case: Case, room: float) -> Case:
    """A case with the longest of its requests as the longest that is served, and so many times the cache it needs."""
    longest = largest_tokens(make_asks(case.seed, case.sessions, case.shape))
    return replace(case, max_model_len=longest, capacity_blocks=round(room * case.needed_blocks(longest)))


def largest_tokens(asks: list[Ask]) -> int:
    """The tokens of the largest request, prompt and answer, where every answer is as long as it may be."""
    totals: list[int] = []
    for ask in asks:
        before = 0 if ask.after_row is None else totals[ask.after_row]
        totals.append(before + len(ask.tokens) + ask.max_tokens)
    return max(totals)
