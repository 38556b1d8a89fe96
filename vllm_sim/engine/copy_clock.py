"""When a step is launched and computed, for the copies besides it (tier.py): by the wall's time or a virtual one."""

import time
from typing import Protocol


class CopyClock(Protocol):
    """When a step is launched; milliseconds."""

    @property
    def now_ms(self) -> float:
        """Of the host."""

    @property
    def computed_ms(self) -> float:
        """When the device has computed what was launched before."""

    @property
    def step_end_ms(self) -> float | None:
        """When it will have computed the step that is launched; None: not known yet."""

    def wait_until(self, ms: float) -> None:
        """The host waits."""


class VirtualClock:
    """Set by what steps the engine."""

    def __init__(self) -> None:
        self.now_ms = self.computed_ms = 0.0
        self.step_end_ms: float | None = None

    def wait_until(self, ms: float) -> None:
        self.now_ms = max(self.now_ms, ms)


class WallClock:
    """A server's: its steps are answered at once."""

    @property
    def now_ms(self) -> float:
        return time.monotonic() * 1000

    computed_ms = step_end_ms = now_ms

    def wait_until(self, ms: float) -> None:
        time.sleep(max(0.0, ms - self.now_ms) / 1000)
