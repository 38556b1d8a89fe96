"""A capacity in the units that people have: tokens, GiB of a model's cache, a share of the working set, seconds.

Seconds of traffic: capacity in tokens / (prompt and generated tokens of the trace / its time from first to last
arrival): how long the traffic takes to send as many tokens as the cache holds, were none of them hit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vllm_sim.models.layers import keeps_less
from vllm_sim.sweep.capacity import kv_bytes_a_token
from vllm_sim.trace.columns import column
from vllm_sim.trace.record import Record


class Traffic(NamedTuple):
    """What a trace brings."""

    tokens: int
    """Prompt and generated tokens."""
    seconds: float | None
    """From the first arrival to the last; None without timestamps, or where all come at once."""


class Units(NamedTuple):
    """A capacity; None where it means nothing."""

    tokens: int
    gib: float | None
    working_set_share: float | None
    seconds: float | None

    def texts(self) -> tuple[str, ...]:
        """As a table has them."""
        return (
            f"{self.tokens:,}",
            "" if self.gib is None else f"{self.gib:,.2f}",
            "" if self.working_set_share is None else f"{self.working_set_share:.1%}",
            "" if self.seconds is None else f"{self.seconds:,.1f}",
        )


HEADS = ("tokens", "GiB", "of working set", "s of traffic")


def traffic_of(records: Sequence[Record], tokens: int) -> Traffic:
    """What records bring that have so many tokens in all."""
    times = column(records, "arrival_ms")
    times = times[~np.isnan(times)]
    span = float(times.max() - times.min()) / 1000 if times.size else 0.0
    return Traffic(tokens, span or None)


def units_of(
    blocks: int, block_size: int, working_set_blocks: int | None, model: str | None, traffic: Traffic | None
) -> Units:
    """A capacity of so many blocks.

    Args:
        blocks: usable ones.
        block_size: tokens a block.
        working_set_blocks: of the trace at this block size, where it is known.
        model: folder, for GiB; without one, or where its layers do not all keep every token, there are none.
        traffic: of the trace, where it is known.
    """
    tokens = blocks * block_size
    rate = traffic.tokens / traffic.seconds if traffic is not None and traffic.seconds else None
    return Units(
        tokens=tokens,
        gib=_gib(tokens, model),
        working_set_share=blocks / working_set_blocks if working_set_blocks else None,
        seconds=tokens / rate if rate else None,
    )


def _gib(tokens: int, model: str | None) -> float | None:
    if model is None or keeps_less(model) is not None:
        return None
    try:
        return tokens * kv_bytes_a_token(model) / 2**30
    except ValueError:  # latent attention, or a folder without what is needed
        return None
