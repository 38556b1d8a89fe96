"""The roofline of several devices, and what the host adds."""

import random

import pytest

from vllm_sim.models.work import Attention, Experts, ModelWork, dense_work
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.latency import COMPUTE_EFFICIENCY, DEVICES, MEMORY_EFFICIENCY, Roofline, device_bytes, read_experts
from vllm_sim.step_load import Near, Reach, load_of

CONFIG = {
    "hidden_size": 4096,
    "num_hidden_layers": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 8192,
    "vocab_size": 1000,
}
DENSE = dense_work(CONFIG)
STEP = load_of([(64, 0, True), (1, 500, True)])


def test_devices_share_a_step_and_pay_for_all_reduces() -> None:
    alone, shared = Roofline(DENSE, "h100"), Roofline(dense_work(CONFIG, 4), "h100", tensor_parallel=4)
    # Two all-reduces a layer of 65 tokens x 4,096 x 2 bytes; a ring of 4 sends 6/4 of that over each link.
    links = 2 * 2 * 65 * 4096 * 2 * 6 / 4 / (450e6 * 0.8)
    assert shared.step_ms(STEP) == pytest.approx(alone.step_ms(STEP) / 4 + links)


def test_a_key_value_head_is_not_shared() -> None:
    one, eight, sixteen = (dense_work(CONFIG, devices).attention[0].bytes_a_position for devices in (1, 8, 16))
    assert eight == sixteen == one / 8


def test_the_host_adds_its_time_to_steps_that_compute_something() -> None:
    alone, hosted = Roofline(DENSE, "l4"), Roofline(DENSE, "l4", host_overhead_ms=1.5)
    assert hosted.step_ms(STEP) == alone.step_ms(STEP) + 1.5
    assert hosted.step_ms(load_of([])) == 0


def test_what_binds_a_step_is_named() -> None:
    one = load_of([(1, 10, True)])
    assert Roofline(DENSE, "h100").bound_by(one) == "bandwidth"
    assert Roofline(DENSE, "h100").bound_by(load_of([(8192, 0, True)])) == "compute"
    assert Roofline(DENSE, "h100", host_overhead_ms=50).bound_by(one) == "host"
    assert Roofline(dense_work(CONFIG, 8), "l4", 8).bound_by(load_of([(8192, 0, True)])) == "links"


def test_devices_without_links_or_memory_are_refused() -> None:
    with pytest.raises(ValueError, match="device laptop has no link to others; allowed: tensor parallel 1"):
        Roofline(DENSE, "laptop", 2)
    assert device_bytes("l4") == 24 * 2**30
    with pytest.raises(ValueError, match="device is 'laptop'; allowed where memory is needed"):
        device_bytes("laptop")
    assert all(device.source for device in DEVICES.values())


def test_overhead_is_a_time() -> None:
    with pytest.raises(ValueError, match=r"host_overhead_ms is -1\.0; allowed: milliseconds, 0 or more"):
        RunConfig(model="m", host_overhead_ms=-1.0)


def test_layers_with_a_window_or_chunks_see_what_is_in_them() -> None:
    for reach in (Reach(5), Reach(4, is_chunk=True), Reach(1), Reach(1, is_chunk=True)):

        def first(position: int, reach: Reach = reach) -> int:
            """The first position that a token sees."""
            if reach.is_chunk:
                return position // reach.tokens * reach.tokens
            return max(0, position - reach.tokens + 1)

        for new, context in ((1, 0), (3, 0), (9, 0), (1, 3), (1, 17), (7, 6), (2, 4), (20, 11)):
            pairs = sum(position - first(position) + 1 for position in range(context, context + new))
            seen = context - min(context, first(context))
            assert load_of([(new, context, True)], [reach]).near == (Near(pairs, seen + 2 * new),)


def test_a_window_bounds_what_is_read_of_the_cache() -> None:
    work = ModelWork(0.0, 0.0, (Attention(0.0, 8.0), Attention(0.0, 2.0, Reach(128))), 0)
    model = Roofline(work, "h100")
    bandwidth = DEVICES["h100"].gb_per_s * 1e6 * MEMORY_EFFICIENCY
    steps = {context: model.step_ms(load_of([(1, context, True)], model.reaches)) for context in (100, 10_000)}
    assert steps[100] == pytest.approx((8 * 102 + 2 * 102) / bandwidth)
    assert steps[10_000] == pytest.approx((8 * 10_002 + 2 * 129) / bandwidth)


def test_experts_are_read_as_tokens_draw_them_and_computed_by_tokens() -> None:
    experts = Experts(weights=1e6, on_device=32, a_layer=32, a_token=4)
    assert read_experts(experts, 1) == pytest.approx(4)
    assert read_experts(experts, 10_000) == pytest.approx(32)
    draw, trials, tokens = random.Random(0), 2000, 12
    drawn = sum(len({one for _ in range(tokens) for one in draw.sample(range(32), 4)}) for _ in range(trials))
    assert read_experts(experts, tokens) == pytest.approx(drawn / trials, rel=0.01)
    work = ModelWork(1e6, 0.0, (), 0, (experts,), state_bytes=1e3)
    model, device = Roofline(work, "h100"), DEVICES["h100"]
    moved = 2 * (1e6 + 4e6) + 2 * 1e3
    assert model.step_ms(load_of([(1, 9, True)])) == pytest.approx(moved / (device.gb_per_s * 1e6 * MEMORY_EFFICIENCY))
    computed = 2 * (1e6 + 4e6) * 10_000
    peak = device.tflops * 1e9 * COMPUTE_EFFICIENCY
    assert model.step_ms(load_of([(10_000, 0, True)])) == pytest.approx(computed / peak)


def test_a_device_with_a_part_of_the_experts_computes_that_part() -> None:
    whole, half = Experts(1e6, 32, 32, 4), Experts(1e6, 16, 32, 4)
    assert read_experts(half, 7) == read_experts(whole, 7) / 2
    steps = [Roofline(ModelWork(0.0, 0.0, (), 0, (one,)), "l4").step_ms(STEP) for one in (whole, half)]
    assert steps[1] == pytest.approx(steps[0] / 2)
