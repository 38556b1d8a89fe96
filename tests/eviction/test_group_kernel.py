"""The compiled cache of several groups by itself: why it serves one capacity at a time."""

import random

import numpy as np

from vllm_sim.eviction.chains import Requests, link
from vllm_sim.eviction.group_kernel import HIT, serve_groups
from vllm_sim.eviction.group_lookup import FULL, WINDOW, Shape
from vllm_sim.eviction.group_order import ReleaseOrder

UNIT = 4
SHAPE = Shape(
    kind=np.array([WINDOW, FULL]),
    units=np.array([1, 1]),
    span=np.array([2 * UNIT, 0]),
    last=np.array([2, 0]),
    order=np.array([1, 0]),
    ends=np.array([1, 2]),
    unit_tokens=UNIT,
    alignment=1,
    retention=0,
    state_tokens=0,
    inner_tokens=0,
    is_simple=True,
)
"""A window of two blocks that is kept at the ends of prompts alone, as by default, and full attention."""


def requests_of(seed: int) -> Requests:
    """Four histories that grow by a block and begin anew, one token after their blocks."""
    draw = random.Random(seed)
    histories = [[draw.randrange(50) for _ in range(draw.randrange(2, 8))] for _ in range(4)]
    rows = []
    for _ in range(25):
        place = draw.randrange(4)
        old = histories[place]
        histories[place] = [*old, draw.randrange(50)] if len(old) < 12 else [draw.randrange(50)] * 3
        rows.append(histories[place])
    lengths = np.array([len(row) for row in rows])
    none = np.zeros(lengths.size, np.int64)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    return Requests(np.concatenate(rows), begins, lengths * UNIT + 1, none + 2, none, none)


def test_a_larger_cache_may_hit_less_so_that_no_single_pass_serves_all_capacities() -> None:
    requests = requests_of(42)
    chains = link(requests, UNIT)
    hits = {}
    for blocks in (48, 49):
        out, _ = serve_groups(
            chains,
            requests.prompt_tokens,
            requests.output_tokens,
            SHAPE,
            ReleaseOrder(blocks),
            blocks,
            longest=10**6,
            chunk=8192,
        )
        hits[blocks] = int(out[:, HIT].sum())
    assert hits == {48: 118, 49: 117}
