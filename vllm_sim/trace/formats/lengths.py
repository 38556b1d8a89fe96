"""Prompts of which only lengths are known, as hash ids: what a session's prompt shares with the one before it.

Ids stand for BLOCK_SIZE_TOKENS tokens each, from the start of the prompt; the tail that fills no block has none. A
block that two prompts share has one id, every other block a new one, so reuse is what the recording says and no more.
Answers are lengths too: their tokens are new when the next prompt brings them.
"""

from collections.abc import Hashable
from typing import Any

BLOCK_SIZE_TOKENS = 16


class Contexts:
    """The ids of each session's last prompt."""

    def __init__(self) -> None:
        self._next = 0
        self._last: dict[Hashable, list[int]] = {}

    def prompt(self, session: Hashable, tokens: int, shared_tokens: int, start: Hashable = None) -> dict[str, Any]:
        """The prompt fields of a record.

        Args:
            session: Whose prompt it is.
            tokens: Its length.
            shared_tokens: How many of its first tokens those of the session's last prompt are.
            start: For a session's first prompt: its first shared_tokens are the same in all sessions that give this.
        """
        of, shared = session, shared_tokens // BLOCK_SIZE_TOKENS
        if session not in self._last and start is not None:
            of = ("start", start)
            known = self._last.setdefault(of, [])
            known += self._fresh(min(shared, tokens // BLOCK_SIZE_TOKENS) - len(known))
        ids = self._last.get(of, [])[: min(shared, tokens // BLOCK_SIZE_TOKENS)]
        ids += self._fresh(tokens // BLOCK_SIZE_TOKENS - len(ids))
        self._last[session] = ids
        return {"hash_ids": ids, "input_length": tokens, "hash_block_size": BLOCK_SIZE_TOKENS}

    def _fresh(self, count: int) -> list[int]:
        count = max(count, 0)
        self._next += count
        return list(range(self._next - count, self._next))
