"""Chats as arrays, and when their requests arrive: one tokenised trace serves every arrival pattern.

Sessions begin as a Poisson process and a turn comes a log-normal think time after the one before it (steady.py). How
long an answer takes is left out of the order (the engine waits for it). Rates and think times are typical values, not
measured ones: ShareGPT has no clock.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vllm_sim.eviction.chains import Requests
from vllm_sim.replay.requests import cache_requests
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised
from vllm_sim.trace.vocabulary import Vocabulary

THINK_SIGMA = 1.0
SYSTEM_PROMPT = " ".join(
    f"Rule {number}: answer in the language of the question, be brief and correct, say so when you do not know, and "
    f"keep to the facts of paragraph {number} of the handbook."
    for number in range(1, 17)
)
"""Text of the project's own, about 600 tokens, put in front of every chat in the runs that have one."""


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


@lru_cache(maxsize=3)
def requests_of(chats: Chats, block_size: int) -> Requests:
    """The chats' blocks in the order of the trace."""
    return cache_requests(chats.trace, chats.records, block_size)
