"""Failures on purpose, so that clients, routers and retries can be tried: which request meets which is a function of
its prompt, of how often that prompt came, and of a seed, and of nothing else.

    reject   refused with 503 before it is queued, by upstream's own error for a full queue
    abort    ends with an error in the middle of its answer (500, or an error event in a stream)
    delay    the step that computes its first token takes delay_ms longer, for all requests in it
"""

import hashlib
from collections import Counter
from typing import Any, Literal

KINDS = ("reject", "abort", "delay")
Kind = Literal["reject", "abort", "delay"]


def check_failures(values: dict[str, Any]) -> None:
    """Looks at the option.

    Raises:
        ValueError: a key is not known, or a value is not allowed.
    """
    allowed = (*KINDS, "delay_ms", "seed")
    for name, value in values.items():
        if name not in allowed:
            raise ValueError(f"failures has {name!r}; allowed: {', '.join(allowed)}")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if name == "seed" and type(value) is not int:
            raise ValueError(f"failures: seed is {value!r}; allowed: a whole number")
        if name != "seed" and not (is_number and 0 <= value < float("inf")):
            raise ValueError(f"failures: {name} is {value!r}; allowed: 0 or more")
    if sum(values.get(name, 0) for name in KINDS) > 1:
        raise ValueError(f"failures: {', '.join(KINDS)} add up to more than 1; allowed: shares of the requests")
    if values.get("delay") and not values.get("delay_ms"):
        raise ValueError("failures: delay needs delay_ms; allowed: milliseconds above 0")


class Failures:
    """Draws what requests meet, each by its prompt and how often that came to this object."""

    def __init__(self, values: dict[str, Any]):
        self._values = values
        self._seen: Counter[bytes] = Counter()
        self.delay_ms = float(values.get("delay_ms", 0))

    def draw(self, prompt: bytes) -> Kind | None:
        """What a request meets.

        Args:
            prompt: The digest of its prompt.
        """
        if not self._values:
            return None
        times = self._seen[prompt]
        self._seen[prompt] += 1
        salt = f"{self._values.get('seed', 0)} {times}".encode()
        place = int.from_bytes(hashlib.blake2b(prompt + salt, digest_size=8).digest(), "big") / 2**64
        for kind in KINDS:
            place -= self._values.get(kind, 0)
            if place < 0:
                return kind  # type: ignore[return-value]
        return None
