"""The roofline of several devices, and what the host adds."""

import pytest

from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.latency import DEVICES, Roofline, device_bytes
from vllm_sim.step_load import load_of

CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 1000,
}
STEP = load_of([(64, 0, True), (1, 500, True)])


def test_devices_share_a_step_and_pay_for_all_reduces() -> None:
    alone, shared = Roofline(CONFIG, "h100"), Roofline(CONFIG, "h100", tensor_parallel=4)
    # Two all-reduces a layer of 65 tokens x 4,096 x 2 bytes; a ring of 4 sends 6/4 of that over each link.
    links = 2 * 2 * 65 * 4096 * 2 * 6 / 4 / (450e6 * 0.8)
    assert shared.step_ms(STEP) == pytest.approx(alone.step_ms(STEP) / 4 + links)


def test_a_key_value_head_is_not_shared() -> None:
    eight, sixteen = (Roofline(CONFIG, "h100", devices).kv_bytes_a_token for devices in (8, 16))
    assert eight == sixteen == Roofline(CONFIG, "h100").kv_bytes_a_token / 8


def test_the_host_adds_its_time_to_steps_that_compute_something() -> None:
    alone, hosted = Roofline(CONFIG, "l4"), Roofline(CONFIG, "l4", host_overhead_ms=1.5)
    assert hosted.step_ms(STEP) == alone.step_ms(STEP) + 1.5
    assert hosted.step_ms(load_of([])) == 0


def test_what_binds_a_step_is_named() -> None:
    one = load_of([(1, 10, True)])
    assert Roofline(CONFIG, "h100").bound_by(one) == "bandwidth"
    assert Roofline(CONFIG, "h100").bound_by(load_of([(8192, 0, True)])) == "compute"
    assert Roofline(CONFIG, "h100", host_overhead_ms=50).bound_by(one) == "host"
    assert Roofline(CONFIG, "l4", 8).bound_by(load_of([(8192, 0, True)])) == "links"


def test_devices_without_links_or_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="device laptop has no link to others; allowed: tensor parallel 1"):
        Roofline(CONFIG, "laptop", 2)
    assert device_bytes("l4") == 24 * 2**30
    with pytest.raises(ValueError, match="device is 'laptop'; allowed where memory is needed"):
        device_bytes("laptop")
    assert all(device.source for device in DEVICES.values())


def test_overhead_is_a_time() -> None:
    with pytest.raises(ValueError, match=r"host_overhead_ms is -1\.0; allowed: milliseconds, 0 or more"):
        RunConfig(model="m", host_overhead_ms=-1.0)
