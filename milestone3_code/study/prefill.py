"""What hit tokens save: the operations of the prompts' first tokens, and their time on a device.

Attention makes late tokens of a prompt dearer than early ones, and hits are early ones: a share of tokens is more than
the share of operations. Operations of the first h tokens of a prompt: 2 x weights x h + a pair's operations x
h x (h + 1) / 2, as replay/latency.py counts them; a large prefill is bound by them and not by memory.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vllm_sim.models.work import dense_work
from vllm_sim.replay.latency import Roofline

DEVICE = "h100"
Numbers = npt.NDArray[Any]


class Prefill(NamedTuple):
    """Of a model on a device."""

    operations_a_token: float
    operations_a_pair: float
    operations_per_s: float

    def operations(self, tokens: Numbers) -> Numbers:
        """Of the first so many tokens of each prompt, [n]."""
        tokens = np.asarray(tokens, np.float64)
        return self.operations_a_token * tokens + self.operations_a_pair * tokens * (tokens + 1) / 2

    def seconds(self, operations: float) -> float:
        """How long the device computes so many."""
        return operations / self.operations_per_s


def prefill_of(model: str, device: str = DEVICE) -> Prefill:
    """Of a model's folder."""
    work = dense_work(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")))
    (attention,) = work.attention
    return Prefill(2 * work.layer_weights, attention.operations_a_pair, Roofline(work, device).operations_per_ms * 1000)
