"""The latency model `table`, from a log as vLLM writes it."""

import itertools
import json
import random
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from vllm_sim.replay.bench_steps import TimedStep, bench_steps
from vllm_sim.replay.calibrate import calibrate, errors, fit, iter_steps
from vllm_sim.replay.latency import LatencyTable, load_table
from vllm_sim.step_load import load_of

TRUE = LatencyTable(base_ms=2.0, prefill_request_ms=0.5, prefill_token_ms=0.01, decode_request_ms=0.25)
LOADS = [(p, 30 * p + i * i % 83, d) for i, (p, d) in enumerate(itertools.product(range(4), range(10))) if p or d]


def line(step: int, prefill: int, tokens: int, decode: int, ms: float, dummy: bool = False) -> str:
    return (
        f"INFO 11-24 11:41:20 [loggers.py:202] Engine 000: Iteration({step}): {prefill} context requests, "
        f"{tokens} context tokens, {decode} generation requests, {decode} generation tokens, iteration elapsed time: "
        f"{ms:.2f} ms{' (dummy)' if dummy else ''}, GPU KV cache usage: 12.5%"
    )


def measured(prefill: int, tokens: int, decode: int) -> float:
    return TRUE.base_ms + TRUE.prefill_request_ms * prefill + TRUE.prefill_token_ms * tokens + 0.25 * decode


def write_log(path: Path, lines: list[str]) -> Path:
    path.write_text("INFO the server starts\n\n" + "".join(one + "\n" for one in lines))
    return path


def exact_log(path: Path) -> Path:
    lines = [line(i, p, t, d, measured(p, t, d)) for i, (p, t, d) in enumerate(LOADS)]
    return write_log(path, [*lines, line(99, 0, 0, 0, 77.0, dummy=True)])


def test_terms_are_found_again_and_their_clock_is_a_replay(tmp_path: Path) -> None:
    result = calibrate(exact_log(tmp_path / "server.log"), tmp_path / "table.json")
    assert result["steps"] == len(LOADS)
    assert result["held_out"]["relative_error_p90"] < 0.01
    table = load_table(tmp_path / "table.json")
    # Two prefills of 20 and 1 tokens (the second's last one comes later), and two decodes.
    load = [(20, 0, True), (1, 0, False), (1, 30, True), (1, 31, True)]
    assert table.step_ms(load_of(load)) == pytest.approx(2.0 + 0.5 * 2 + 0.01 * 21 + 0.25 * 2, rel=0.01)
    assert table.step_ms(load_of([])) == 0


def test_no_term_is_negative_where_free_least_squares_would_have_one() -> None:
    steps = [TimedStep(1, tokens, 0, max(1.0, 100.0 - tokens)) for tokens in range(10, 90, 4)]
    table = fit(steps)
    assert table.prefill_token_ms == 0
    assert min(table.base_ms, table.prefill_request_ms, table.decode_request_ms) >= 0
    assert errors(table, steps)["predicted_over_measured"] == pytest.approx(1, abs=0.5)


def test_a_step_that_cannot_be_read_names_its_line(tmp_path: Path) -> None:
    log = write_log(tmp_path / "server.log", [line(0, 1, 5, 0, 2.0), line(1, 1, 5, 0, 2.0)[:140]])
    with pytest.raises(ValueError, match="line 4: not a step"):
        list(iter_steps(log))


def test_a_log_without_steps_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"0 timed steps.*--enable-logging-iteration-details"):
        calibrate(write_log(tmp_path / "server.log", []), tmp_path / "table.json")
    assert not (tmp_path / "table.json").exists()


def write_bench(path: Path) -> Path:
    """Sixty requests, sent at random to an engine whose steps take what TRUE says, as `vllm bench serve` saves them."""
    draw, now, waiting, running = random.Random(2), 0.0, [], {}
    sent = [0.02 * place * draw.random() for place in range(60)]
    sizes = [(draw.randint(10, 400), draw.randint(3, 30)) for _ in sent]
    tokens: list[list[float]] = [[] for _ in sent]
    left = sorted(range(60), key=sent.__getitem__)
    while left or waiting or running:
        if not waiting and not running:
            now = max(now, sent[left[0]])
        while left and sent[left[0]] <= now:
            waiting.append(left.pop(0))
        prefill = waiting[: max(0, 8 - len(running))]
        waiting = waiting[len(prefill) :]
        now += measured(len(prefill), sum(sizes[one][0] for one in prefill), len(running)) / 1000
        running |= dict.fromkeys(prefill)
        for one in list(running):
            tokens[one].append(now + 1e-5 * len(running))
            if len(tokens[one]) == sizes[one][1]:
                del running[one]
    itls = [[later - sooner for sooner, later in itertools.pairwise(own)] for own in tokens]
    ttfts = [own[0] - start for own, start in zip(tokens, sent, strict=True)]
    values = {"start_times": sent, "ttfts": ttfts, "itls": itls, "input_lens": [size for size, _ in sizes]}
    path.write_text(json.dumps(values))
    return path


def test_terms_are_found_again_in_what_a_benchmark_saved(tmp_path: Path) -> None:
    result = calibrate(write_bench(tmp_path / "bench.json"), tmp_path / "table.json")
    assert result["steps"] > 50
    for name in ("base_ms", "prefill_request_ms", "prefill_token_ms", "decode_request_ms"):
        assert result[name] == pytest.approx(getattr(TRUE, name), rel=0.1)
    assert result["held_out"]["predicted_over_measured"] == pytest.approx(1, abs=0.02)


def test_a_step_after_a_pause_has_no_length(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    values = {"start_times": [0.0, 5.0], "ttfts": [0.03, 0.04], "itls": [[0.01, 0.01], [0.012]], "input_lens": [7, 9]}
    path.write_text(json.dumps(values))
    found = list(bench_steps(path))
    assert [step[:3] for step in found] == [(0, 0, 1)] * 3
    assert [step.ms for step in found] == pytest.approx([10, 10, 12])


@pytest.mark.parametrize("text", ["{", "[]", '{"ttfts": [0.1]}'])
def test_a_file_that_no_detailed_benchmark_wrote_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(ValueError, match=r"has no start_times, .* allowed: what `vllm bench serve --save-result"):
        calibrate(tmp_path / "bench.json", tmp_path / "table.json")


@pytest.mark.parametrize(
    ("text", "reason"),
    [("{", "not JSON"), ("[]", "base_ms is None"), ('{"base_ms": -1}', "base_ms is -1"), ('{"base_ms": "1"}', "'1'")],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(ValueError, match=reason):
        load_table(tmp_path / "table.json")


def test_command_prints_the_error_of_the_fit(tmp_path: Path) -> None:
    done = vllm_sim("calibrate", exact_log(tmp_path / "server.log"), "--out", tmp_path / "t.json")
    assert done.returncode == 0, done.stderr
    assert "left out of the fit: relative error" in done.stdout
    assert json.loads((tmp_path / "t.json").read_text())["steps"] == len(LOADS)
