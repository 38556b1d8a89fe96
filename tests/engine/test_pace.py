"""A server that keeps time, and failures on purpose: a clock by hand, and an engine that takes as long as it says."""

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from vllm.exceptions import QueueOverflowError
from vllm.v1.core.sched.output import SchedulerOutput

from tests.engine.conftest import MODEL, Start, generate, prompts_of
from vllm_sim.engine.failures import Failures
from vllm_sim.engine.options import parse_options
from vllm_sim.engine.pace import MOST_BEHIND_S, PacedResult, Pacer, Timing
from vllm_sim.models.work import dense_work
from vllm_sim.replay.latency import Roofline
from vllm_sim.step_load import Near, Reach, StepLoad, load_of

ROWS = [{"prompt_token_ids": [*range(100 + 50 * row, 140 + 50 * row)], "output_length": 9} for row in range(12)]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def pacer(clock: Clock, pace: float = 1.0) -> Pacer:
    return Pacer(lambda load: 10.0 * load.requests, pace, clock, clock.sleep)


ONE, TWO = StepLoad(1, 1, 1, 1, 1, 0), StepLoad(2, 2, 2, 2, 2, 0)


def test_time_that_python_takes_between_steps_is_part_of_them() -> None:
    clock = Clock()
    device = pacer(clock)
    assert PacedResult("tokens", device, device.begin(ONE, goes_on=False)).result() == "tokens"
    assert clock.now == pytest.approx(100.010)
    clock.now += 0.004  # scheduling
    assert device.begin(TWO, goes_on=True) == pytest.approx(100.030)
    assert device.python_s == pytest.approx(0.004)
    clock.now = 101.0
    assert device.begin(ONE, goes_on=False) == pytest.approx(101.010)  # idle meanwhile
    assert device.begin(ONE, goes_on=False) == pytest.approx(101.020)  # given before the one before it has ended


def test_pace_and_delays_lengthen_a_step_and_lateness_has_a_limit() -> None:
    clock = Clock()
    device = pacer(clock, pace=3.0)
    assert device.begin(ONE, goes_on=False, delay_ms=500) == pytest.approx(100.530)
    clock.now = 110.0  # Python took far too long
    assert device.begin(ONE, goes_on=True) == pytest.approx(110.0 - MOST_BEHIND_S + 0.030)
    assert device.late_s > 0


def test_an_engine_takes_as_long_as_the_latency_model_says(start: Start) -> None:
    llm = start(ROWS, {"pace": 5.0, "device": "l4"}, async_scheduling=False)
    model = Roofline(dense_work(json.loads((MODEL / "config.json").read_text())), "l4")
    steps = [(40, 0, True), *((1, 40 + place, True) for place in range(8))]
    seconds = 5 * sum(model.step_ms(load_of([step])) for step in steps) / 1000
    begun = time.monotonic()
    (output,) = generate(llm, prompts_of(llm)[:1])
    took = time.monotonic() - begun
    clock = llm.llm_engine.model_executor._timing.pacer
    llm.llm_engine.engine_core.shutdown()
    assert len(output.token_ids) == 9
    assert clock.steps == len(steps)
    assert clock.model_s == pytest.approx(seconds, rel=1e-6)
    assert seconds - clock.late_s - 0.002 <= took


def test_a_step_of_a_paced_server_knows_what_windows_see() -> None:
    loads: list[StepLoad] = []
    timing = Timing(Pacer(lambda load: float(len(loads.append(load) or loads)), 1.0), Failures({}), (Reach(8),))
    output = replace(SchedulerOutput.make_empty(), num_scheduled_tokens={"a": 1, "b": 20})
    timing.step(output, ["a", "b"], [100, 0], [[7], []])
    assert loads == [load_of([(1, 100, True), (20, 0, False)], [Reach(8)])]
    assert loads[0].near == (Near(8 + 36 + 12 * 8, 9 + 40),)


def test_requests_fail_by_their_prompts_and_the_others_are_whole(start: Start) -> None:
    llm = start(ROWS, {"failures": {"abort": 0.3, "reject": 0.3, "seed": 1}})
    found: list[Any] = []
    for prompt in prompts_of(llm):
        try:
            found += generate(llm, [prompt])
        except QueueOverflowError:
            found.append(None)
    llm.llm_engine.engine_core.shutdown()
    draws = [Failures({"abort": 0.3, "reject": 0.3, "seed": 1}).draw(llm_digest(row)) for row in ROWS]
    assert {"abort", "reject", None} <= set(draws)
    for output, drawn in zip(found, draws, strict=True):
        if drawn == "reject":
            assert output is None
        else:
            assert (output.finish_reason == "error", len(output.token_ids) < 9) == (drawn == "abort",) * 2


def llm_digest(row: dict[str, Any]) -> bytes:
    import numpy as np

    from vllm_sim.trace.tokens import prompt_digest

    return prompt_digest(np.array(row["prompt_token_ids"], dtype=np.int32))


def test_failures_are_shares_and_the_same_every_time() -> None:
    names = [str(place).encode() for place in range(2000)]
    first, again = (Failures({"reject": 0.1, "delay": 0.2, "delay_ms": 5}) for _ in range(2))
    drawn = [first.draw(name) for name in names]
    assert drawn == [again.draw(name) for name in names]
    assert drawn.count("reject") == pytest.approx(200, abs=60)
    assert drawn.count("delay") == pytest.approx(400, abs=80)
    assert [first.draw(names[0]) for _ in range(40)].count("reject") < 40  # a retry is drawn anew


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"pace": -1}, "option pace of vllm_sim is -1; allowed: a number, 0 or more"),
        ({"pace": True}, "option pace of vllm_sim is True"),
        ({"latency_model": "zero"}, "option latency_model of vllm_sim is 'zero'; allowed: roofline, table"),
        ({"failures": 3}, "option failures of vllm_sim is 3; allowed: an object"),
        ({"failures": {"crash": 0.1}}, "failures has 'crash'; allowed: reject, abort, delay, delay_ms, seed"),
        ({"failures": {"abort": 0.7, "reject": 0.7}}, "add up to more than 1"),
        ({"failures": {"delay": 0.5}}, "failures: delay needs delay_ms; allowed"),
        ({"failures": {"abort": "x"}}, "failures: abort is 'x'; allowed: 0 or more"),
    ],
)
def test_an_option_that_cannot_be_honoured_is_named(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason.replace("(", r"\(")):
        parse_options({"vllm_sim": options})


def test_an_unknown_device_ends_the_start(start: Start) -> None:
    with pytest.raises(Exception, match="device is 'tpu'; allowed: h100, a100, l4, laptop"):
        start(ROWS, {"pace": 1.0, "device": "tpu"})
