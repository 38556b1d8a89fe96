"""Two traces out of the same ShareGPT conversations: the first exchange alone, and every exchange with its history.

Lengths are those of the requests as vLLM has them: the chat template of the model's folder, its tokenizer, one end
token. A conversation is sampled by a hash over the seed and its id, so that the choice depends neither on the order of
the file nor on the number of conversations chosen: fewer are a part of more.

Held in memory: the sampled conversations, and the ids of all.
"""

import hashlib
import heapq
import json
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from msgspec import structs

from vllm_sim.terminal import byte_bar
from vllm_sim.trace.files import open_output, write_records
from vllm_sim.trace.formats import Options, Report
from vllm_sim.trace.formats.conversations import Conversation, Message, requests_of
from vllm_sim.trace.formats.sharegpt import iter_conversations
from vllm_sim.trace.record import Record
from vllm_sim.trace.vocabulary import Vocabulary

SINGLE_TURN = "single_turn.jsonl"
MULTI_TURN = "multi_turn.jsonl"
REPORT = "preprocess.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChoice:
    """Which conversations are taken, and how much of each."""

    conversations: int = 2500
    seed: int = 0
    max_tokens: int = 8192
    """Prompt and response of a request; a conversation ends before the first request that is longer."""
    min_turns: int = 1
    """Exchanges that are left after that."""
    max_turns: int | None = None
    system_prompt: str | None = None
    """Put in front of every conversation (and of its own system turn, with a blank line between)."""
    active_sessions: int = 16
    """Conversations that take turns in the multi-turn trace: one begins when another ends. 1: one after the other."""

    def __post_init__(self) -> None:
        for name in ("conversations", "max_tokens", "min_turns", "max_turns", "active_sessions"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; allowed: 1 or more")


def preprocess(dump: Path, model: Path, out: Path, choice: ChatChoice) -> dict[str, Any]:
    """Writes SINGLE_TURN, MULTI_TURN and REPORT into a folder.

    Args:
        dump: A ShareGPT file, as the download leaves it.
        model: Folder of the model that has tokenizer and chat template.
        out: The folder.
        choice: What to take.

    Returns:
        What REPORT holds: settings, counts, what was dropped and repaired.

    Raises:
        TraceError: the dump cannot be read or is broken elsewhere than at its end.
        ValueError: no conversation is left, or the model has no tokenizer.
    """
    report = Report()
    with byte_bar(dump.name, dump) as on_bytes:
        found = iter_conversations(dump, Options(on_bytes=on_bytes), report)
        sample = sample_conversations(found, Vocabulary(model), choice, report)
    if not sample:
        raise ValueError(f"{dump}: no conversation is left ({'; '.join(report.lines()) or 'none in it'})")
    single = write_records(out / SINGLE_TURN, single_turn(sample))
    multi = write_records(out / MULTI_TURN, multi_turn(sample, choice.active_sessions))
    result = {
        "source": dump.name,
        "choice": asdict(choice),
        "conversations": len(sample),
        "single_turn_requests": single,
        "multi_turn_requests": multi,
        **report.to_json(),
    }
    with open_output(out / REPORT) as file:
        file.write(json.dumps(result, indent=2) + "\n")
    return result


def sample_conversations(
    conversations: Iterable[Conversation], vocabulary: Vocabulary, choice: ChatChoice, report: Report
) -> list[Conversation]:
    """The conversations that fit, in the order of their hashes; those that were not drawn are counted, not measured."""
    chosen: list[tuple[int, str, Conversation]] = []
    for conversation in conversations:
        name = str(conversation.id)
        # Negative, since heapq keeps the smallest at the top and the largest hash is the one to go.
        rank = -_hash(choice.seed, name)
        if len(chosen) == choice.conversations and rank < chosen[0][0]:
            report.drop("conversation: not drawn", name)
            continue
        fitting = fit(conversation, vocabulary, choice, report)
        if fitting is None:
            continue
        heapq.heappush(chosen, (rank, name, fitting))
        if len(chosen) > choice.conversations:
            report.drop("conversation: not drawn", heapq.heappop(chosen)[1])
    return [conversation for _, _, conversation in sorted(chosen, reverse=True, key=lambda item: item[:2])]


def _hash(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest(), "big")


def fit(conversation: Conversation, vocabulary: Vocabulary, choice: ChatChoice, report: Report) -> Conversation | None:
    """A conversation with the system prompt, cut before what is too long; None if too little is left."""
    messages = _with_system_prompt(conversation.messages, choice.system_prompt)
    ends = [place + 1 for place, message in enumerate(messages) if message["role"] == "assistant"]
    where = str(conversation.id)
    kept = 0
    for turn, tokens in enumerate(request_tokens(messages, vocabulary)):
        if tokens > choice.max_tokens:
            report.drop(f"turns: longer than {choice.max_tokens} tokens, or after such a one", where, len(ends) - turn)
            break
        if choice.max_turns is not None and turn == choice.max_turns:
            report.drop(f"turns: after the first {choice.max_turns}", where, len(ends) - turn)
            break
        kept = turn + 1
    if kept < choice.min_turns:
        report.drop(f"conversation: fewer than {choice.min_turns} turns left", where)
        return None
    return replace(conversation, messages=messages[: ends[kept - 1]])


def _with_system_prompt(messages: list[Message], prompt: str | None) -> list[Message]:
    if prompt is None:
        return messages
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": prompt}, *messages]
    return [{"role": "system", "content": f"{prompt}\n\n{messages[0]['content']}"}, *messages[1:]]


def request_tokens(messages: list[Message], vocabulary: Vocabulary) -> Iterator[int]:
    """Yields, for each assistant message, prompt and response tokens of its request, the end token included.

    The history of a request was encoded for the one before; a template that ends each message with a special token
    lets the rest be encoded alone, for nothing is merged over it.
    """
    history, history_tokens = "", 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        prompt = vocabulary.render_chat(messages[:place], None, None)
        through = vocabulary.render_chat(messages[: place + 1], None, {"add_generation_prompt": False})
        if not (prompt.startswith(history) and through.startswith(history)):
            history, history_tokens = "", 0
        new = [prompt[len(history) :], through[len(history) :]]
        prompt_tokens, through_tokens = (len(ids) for ids in vocabulary.encode_chats(new))
        response_tokens = len(vocabulary.encode_responses([message["content"]])[0])
        yield history_tokens + prompt_tokens + response_tokens + 1
        history, history_tokens = through, history_tokens + through_tokens


def single_turn(sample: Iterable[Conversation]) -> Iterator[Record]:
    """Yields the first request of each conversation."""
    for conversation in sample:
        for record in requests_of(conversation, "first"):
            yield structs.replace(record, workload="single-turn")


def multi_turn(sample: Iterable[Conversation], active_sessions: int) -> Iterator[Record]:
    """Yields every request; a number of conversations take turns, one request each."""
    waiting = iter(sample)
    active: deque[Iterator[Record]] = deque()
    while True:
        while len(active) < active_sessions and (conversation := next(waiting, None)) is not None:
            active.append(requests_of(conversation))
        if not active:
            return
        session = active.popleft()
        record = next(session, None)
        if record is not None:
            active.append(session)
            yield structs.replace(record, workload="multi-turn")
