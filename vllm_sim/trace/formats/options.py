"""The options of every converter, and what it reports."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Turns = Literal["all", "first", "last"]
EXAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of a conversion; each converter uses those that mean something for its format."""

    turns: Turns = "all"
    """Which assistant turns of a conversation become requests (ShareGPT, OpenAI)."""
    output_tokens: int | None = None
    """Generated tokens of a row that does not say how many it has (vllm-custom, lmcache)."""
    hash_only: bool = False
    """Whether texts are left out: hash ids as long as the provider counted (claude-code, codex, otel)."""
    chat_template: bool = True
    """Whether a prompt is the user's turn of a chat, as `vllm bench serve` sends it, or plain text (vllm-custom)."""
    on_bytes: Callable[[int], None] | None = None
    """Called with the number of bytes of the file that were read."""
    strict: bool = False
    """Whether the first thing that would be left out stops the conversion."""

    def as_lengths(self) -> "Options":
        """The same, without texts."""
        return replace(self, hash_only=True)


class Dropped(ValueError):
    """Something that would be left out of a strict conversion; with its place and the reason."""


@dataclass(slots=True)
class Report:
    """What a conversion left out or mended: reason to number of times, with the first few places as examples."""

    dropped: Counter[str] = field(default_factory=Counter)
    repaired: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    strict: bool = False
    """Whether nothing may be left out."""

    def drop(self, reason: str, where: object, count: int = 1) -> None:
        """Counts what was left out.

        Raises:
            Dropped: the report is strict.
        """
        if self.strict:
            raise Dropped(f"{where}: {reason}")
        self._add(self.dropped, reason, where, count)

    def repair(self, what: str, where: object, count: int = 1) -> None:
        self._add(self.repaired, what, where, count)

    def _add(self, counter: Counter[str], reason: str, where: object, count: int) -> None:
        counter[reason] += count
        places = self.examples.setdefault(reason, [])
        if len(places) < EXAMPLES:
            places.append(str(where))

    def to_json(self) -> dict[str, Any]:
        return {"dropped": dict(self.dropped), "repaired": dict(self.repaired), "examples": self.examples}

    def lines(self) -> list[str]:
        """One line a reason, for a terminal."""
        counted = [("dropped", self.dropped), ("repaired", self.repaired)]
        return [
            f"{verb} {count:,}: {reason} (e.g. {', '.join(self.examples[reason])})"
            for verb, counter in counted
            for reason, count in counter.most_common()
        ]
