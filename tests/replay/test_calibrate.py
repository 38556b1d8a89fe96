"""The latency model `table`, from a log as vLLM writes it."""

import itertools
import json
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from vllm_sim.replay.calibrate import TimedStep, calibrate, errors, fit, iter_steps
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
