"""What must hold of a vLLM that executes a model under a policy: each fault is found by itself."""

from typing import Any

import pytest

from parity.live import faults

ROW: dict[str, Any] = {
    "policy": "arc",
    "requests": 300,
    "aborts": 30,
    "hit_tokens": 5000,
    "preemptions": 9,
    "evictions": 800,
    "blocks": 50,
    "free_blocks": 50,
    "half_mib": 800,
    "mib": 900,
}
LRU = ROW | {"policy": "lru", "half_mib": 700, "mib": 780}


def test_a_row_without_fault_has_none() -> None:
    assert faults(ROW, 300, LRU) == []


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"requests": 299}, "299 of 300 requests have ended"),
        ({"free_blocks": 49}, "49 of 50 blocks are free in the end"),
        ({"aborts": 0}, "no aborts"),
        ({"preemptions": 0}, "no preemptions"),
        ({"evictions": 0}, "no evictions"),
        ({"hit_tokens": 0}, "no hit_tokens"),
        ({"mib": 931}, "memory grew by 131 MiB in the second half, under lru by 80"),
    ],
)
def test_each_fault_is_named(changed: dict[str, Any], fault: str) -> None:
    assert faults(ROW | changed, 300, LRU) == [fault]
