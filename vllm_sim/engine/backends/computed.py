"""Which units of tokens were ever computed, and in which of them a generated token was: a tree of prefixes."""

from array import array
from collections.abc import Iterable, Sequence


class Computed:
    """The units of tokens that were ever computed, each after those before it."""

    def __init__(self, unit_tokens: int):
        self.unit_tokens = unit_tokens
        self._number: dict[tuple[int | str | None, bytes], int] = {}
        self._is_generated: list[bool] = []

    def add(self, parent: int | str | None, tokens: Sequence[int], is_generated: bool) -> int:
        """Notes a unit after a parent: a unit's number, or at the start the request's salt. Returns its number."""
        number = self._number.setdefault((parent, array("i", tokens).tobytes()), len(self._number))
        if number == len(self._is_generated):
            self._is_generated.append(is_generated)
        self._is_generated[number] = is_generated
        return number

    def known(self, salt: str | None, tokens: Sequence[int]) -> list[int]:
        """The numbers of the units that tokens begin with."""
        parent: int | str | None = salt
        found = []
        for start in range(0, len(tokens) - self.unit_tokens + 1, self.unit_tokens):
            parent = self._number.get((parent, array("i", tokens[start : start + self.unit_tokens]).tobytes()))
            if parent is None:
                break
            found.append(parent)
        return found

    def generated(self, numbers: Iterable[int]) -> int:
        """How many of these units held a generated token when they were computed last."""
        return sum(self._is_generated[number] for number in numbers)
