"""Capacities as `vllm-sim sweep` takes them: blocks, bytes, shares."""

import pytest

from tests.serving import MODEL
from vllm_sim.sweep.capacity import capacity_blocks, kv_bytes_a_token


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("3000", 3000), ("48000tok", 3000), ("48Ktok", 3000), ("1Mtok", 62500), ("10%", 30), ("0.1%", 1)],
)
def test_capacity_in_blocks(text: str, blocks: int) -> None:
    assert capacity_blocks(text, 16, 300, str(MODEL)) == blocks


def test_capacity_in_bytes_is_what_keys_and_values_of_the_model_take() -> None:
    # Llama-3.2-1B: 2 x 16 layers x 8 heads x 64 x 2 bytes a token.
    assert kv_bytes_a_token(str(MODEL)) == 32768
    assert capacity_blocks("1GiB", 16, 300, str(MODEL)) == 2048
    assert capacity_blocks("unlimited", 16, 300, "") is None


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "3000 blocks", "16GB", "all"])
def test_capacity_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="allowed: blocks"):
        capacity_blocks(text, 16, 300, str(MODEL))


@pytest.mark.parametrize(
    ("text", "reason"), [("15tok", "fills no block"), ("0.01KiB", "fills no block"), ("9" * 400 + "GiB", "up to 2,147")]
)
def test_capacity_that_no_cache_has_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        capacity_blocks(text, 16, 300, str(MODEL))
