"""Chats in the order in which they arrive, as arrays: one tokenised trace serves every arrival pattern.

Sessions begin as a Poisson process and a turn comes a log-normal think time after the one before it. How long an answer
takes is left out of the order (the engine waits for it). Rates and think times are typical values, not measured ones:
ShareGPT has no clock.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vllm_sim.eviction.chains import Array, Chains, Requests, link, reorder
from vllm_sim.replay.requests import cache_requests
from vllm_sim.trace.files import iter_records, write_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised
from vllm_sim.trace.vocabulary import Vocabulary
from vllm_sim.workloads.arrivals import Arrivals, Thinking, times_ms
from vllm_sim.workloads.distribution import LogNormal
from vllm_sim.workloads.session import Seeds, Session

THINK_SIGMA = 1.0
SYSTEM_PROMPT = " ".join(
    f"Rule {number}: answer in the language of the question, be brief and correct, say so when you do not know, and "
    f"keep to the facts of paragraph {number} of the handbook."
    for number in range(1, 17)
)
"""Text of the project's own, about 600 tokens, put in front of every chat in the cells that ask for it."""


class Pattern(NamedTuple):
    """When requests arrive."""

    sessions_per_s: float = 1.0
    think_s: float = 60.0
    """Median."""
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Chats:
    """A trace of chats; n is the number of its rows."""

    name: str
    path: Path
    trace: TokenisedTrace
    records: list[Record]
    system_tokens: int
    """Tokens that all prompts share: the template's beginning and the system prompt."""


class Ordered(NamedTuple):
    """Chats at one block size in the order of their arrival."""

    requests: Requests
    chains: Chains
    records: list[Record]
    times_ms: NDArray[np.float64]
    sessions: Array
    """[n], numbers."""


@lru_cache(maxsize=4)
def load_chats(path: Path, model: str, name: str, with_system_prompt: bool) -> Chats:
    """Reads a trace that `preprocess_sharegpt.py` made; the system prompt is put in as tokens."""
    records = [record for _, record in iter_records(path)]
    trace = load_tokenised(path, model)
    if with_system_prompt:
        trace = _with_system_prompt(trace, model)
    first = int(trace.prompt_lengths.min())
    heads = np.stack([trace.prompt(row)[:first] for row in range(len(trace))])
    differs = np.flatnonzero((heads != heads[0]).any(axis=0))
    return Chats(name, path, trace, records, int(differs[0]) if differs.size else first)


def _with_system_prompt(trace: TokenisedTrace, model: str) -> TokenisedTrace:
    """A system message after the first token (the beginning of the text) of every prompt.

    The template's messages end with special tokens, over which nothing is merged.
    """
    vocabulary = Vocabulary(model)
    message = [{"role": "system", "content": SYSTEM_PROMPT}]
    head = vocabulary.encode_chats([vocabulary.render_chat(message, None, {"add_generation_prompt": False})])[0]
    prompts = [np.concatenate([np.asarray(head, np.int32), trace.prompt(row)[1:]]) for row in range(len(trace))]
    offsets = np.concatenate([[0], np.cumsum([len(prompt) for prompt in prompts])])
    return replace(
        trace, prompt_tokens=np.concatenate(prompts), prompt_offsets=offsets, prompt_lengths=np.diff(offsets)
    )


def arrival_times_ms(records: list[Record], pattern: Pattern) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """When each row arrives, and its think time (0 for a first turn); both [n]."""
    rows_of: dict[str | int | None, list[int]] = {}
    for row, record in enumerate(records):
        rows_of.setdefault(record.session_id, []).append(row)
    sessions = [Session(name, [records[row] for row in rows]) for name, rows in rows_of.items()]
    seeds = Seeds(pattern.seed, "chat")
    starts = Arrivals(kind="poisson", sessions_per_s=pattern.sessions_per_s).starts_ms(
        sessions, seeds.generator("arrivals")
    )
    think = LogNormal(pattern.think_s * 1000, THINK_SIGMA)
    thinking = Thinking(think, think)
    times, gaps_ms = np.zeros(len(records)), np.zeros(len(records))
    for number, (session, start) in enumerate(zip(sessions, starts, strict=True)):
        gaps = thinking.gaps_ms(session, seeds.generator("think", number))
        rows = rows_of[session.id]
        times[rows] = times_ms(session, start, gaps, None)
        gaps_ms[rows[1:]] = gaps
    return times, gaps_ms


@lru_cache(maxsize=3)
def requests_of(chats: Chats, block_size: int) -> Requests:
    """The chats' blocks in the order of the trace."""
    return cache_requests(chats.trace, chats.records, block_size)


@lru_cache(maxsize=2)
def ordered(chats: Chats, block_size: int, pattern: Pattern) -> Ordered:
    """The chats' blocks in the order of arrival."""
    times, _ = arrival_times_ms(chats.records, pattern)
    order = np.argsort(times, kind="stable")
    requests = reorder(requests_of(chats, block_size), order)
    records = [chats.records[row] for row in order]
    numbers: dict[str | int | None, int] = {}
    sessions = np.array([numbers.setdefault(record.session_id, len(numbers)) for record in records], dtype=np.int64)
    return Ordered(requests, link(requests, block_size), records, times[order], sessions)


def write_timed(chats: Chats, pattern: Pattern, path: Path) -> None:
    """Writes the chats as token ids with arrival and think times, for the engine."""
    times, gaps_ms = arrival_times_ms(chats.records, pattern)

    def record(row: int) -> Record:
        given = chats.records[row]
        return Record(
            prompt_token_ids=chats.trace.prompt(row).tolist(),
            response_token_ids=chats.trace.response(row).tolist(),
            finish_reason="length" if chats.trace.cut[row] else None,
            id=given.id,
            timestamp=float(times[row]),
            session_id=given.session_id,
            turn=given.turn,
            workload=given.workload,
            think_time_ms=float(gaps_ms[row]) if given.turn else None,
        )

    write_records(path, (record(int(row)) for row in np.argsort(times, kind="stable")))
