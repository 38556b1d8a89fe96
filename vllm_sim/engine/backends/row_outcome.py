"""What goes into a driver and what comes out of it, by row of the trace. No behaviour."""

from dataclasses import dataclass
from typing import NamedTuple

from vllm_sim.engine.backends.admissions import Admission
from vllm_sim.step_load import StepLoad


class Arrival(NamedTuple):
    """When a row arrives: at a time, or some time after the answer to another row."""

    row: int
    after_row: int | None
    """Row whose answer it waits for, or None."""
    ms: float
    """Time from the start; with after_row the time from its end."""


class RequestSettings(NamedTuple):
    """What a row's request asks for besides its prompt."""

    cache_salt: str | None = None
    priority: int = 0
    max_tokens: int | None = None
    """As recorded; None where it is not known, and then it was more than what was generated up to an end token."""


@dataclass(slots=True)
class RowOutcome:
    """What happened to a row; times in virtual milliseconds."""

    row: int
    arrival_ms: float
    rejected: bool = False
    first_scheduled_ms: float | None = None
    first_token_ms: float = 0.0
    end_ms: float = 0.0
    output_tokens: int = 0
    preemptions: int = 0
    admission: Admission | None = None


class Step(NamedTuple):
    """A step that has ended; times in virtual milliseconds."""

    start_ms: float
    end_ms: float
    load: StepLoad
    running: int
    """Requests that the scheduler runs, and those that wait, when the step has ended."""
    waiting: int
    usage: float
    """Share of the cache's blocks that are in use."""
