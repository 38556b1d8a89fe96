"""What a search does with the logs of its cases: a side that differs, fails or is missing is found and counted."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from parity.drawing import Drawn, draw
from parity.search import INSIDE, SABOTAGED, Outcome, compare, is_found, summary, tell
from parity.workload import Case

SIDES = ("real", "simulator", "driver")


def steps() -> list[dict[str, Any]]:
    lists = ("new", "known", "resumed", "preempted", "finished", "evicted", "zeroed", "copied", "copies")
    step: dict[str, Any] = {name: [] for name in lists}
    return [
        step | {"new": [["0", 0, 40, [1, 2]]], "tokens": {"0": [[7], None]}},
        step | {"known": [["0", 40, 1, []]], "preempted": ["0"], "evicted": ["aa"], "tokens": {"0": [[8], None]}},
        step | {"known": [["0", 32, 9, [3]]], "resumed": ["0"], "tokens": {}},
        step | {"known": [["0", 41, 1, []]], "tokens": {"0": [[9], "length"]}},
    ]


def write(folder: Path, case: Case, side: str, changed: list[dict[str, Any]], error: str | None = None) -> None:
    facts = {
        "vllm": "0.32.0",
        "torch": "2",
        "platform": "CpuPlatform" if side == "real" else "ReplayPlatform",
        "executor": "UniProcExecutor" if side == "real" else "RowExecutor",
        "scheduler": "AsyncScheduler" if case.async_scheduling else "Scheduler",
        "pool": "BlockPool" if case.policy == "lru" else "PolicyBlockPool",
        "step_fn": "step_with_batch_queue" if case.async_scheduling else "step",
        "batch_queue_size": 2 if case.async_scheduling else 1,
    }
    log = {"facts": facts, "steps": changed, "error": error}
    (folder / f"{case.name}.{side}.json").write_text(json.dumps(log))


@pytest.fixture
def drawn(tmp_path: Path) -> Drawn:
    one = draw(1, 1)
    for side in SIDES:
        write(tmp_path, one.case, side, steps())
    row = {"id": 0, "prompt_token_ids": [1] * 40, "response_token_ids": [7, 8, 9]}
    (tmp_path / f"{one.case.name}.jsonl").write_text(json.dumps(row) + "\n")
    return one


def test_equal_logs_are_equal_and_what_happened_is_counted(tmp_path: Path, drawn: Drawn) -> None:
    outcome = compare(tmp_path, drawn)
    assert outcome.wrong == []
    assert (outcome.seen["evictions"], outcome.seen["preemptions"], outcome.seen[INSIDE]) == (1, 1, 1)
    row = summary([outcome], seed=1)
    assert (row["configurations"], row["pressed"], row["tight_not_pressed"], row["differences"]) == (1, 1, 0, 0)
    assert (row[INSIDE], row[f"with_{INSIDE}"], row["vllm"]) == (1, 1, "0.32.0")


@pytest.mark.parametrize("side", ["simulator", "driver"])
def test_one_token_that_differs_is_found_on_either_side(tmp_path: Path, drawn: Drawn, side: str) -> None:
    changed = steps()
    changed[3]["tokens"] = {"0": [[10], "length"]}
    write(tmp_path, drawn.case, side, changed)
    (line,) = compare(tmp_path, drawn).wrong
    assert line.startswith(f"{side}: step 3, tokens:")


@pytest.mark.parametrize("side", SIDES)
def test_a_side_without_a_log_differs(tmp_path: Path, drawn: Drawn, side: str) -> None:
    (tmp_path / f"{drawn.case.name}.{side}.json").unlink()
    outcome = compare(tmp_path, drawn)
    assert [line for line in outcome.wrong if line.startswith(f"{side}: it did not")]
    assert summary([outcome], seed=1)["differences"] == 1


@pytest.mark.parametrize("side", SIDES)
def test_a_side_that_ended_in_an_error_differs(tmp_path: Path, drawn: Drawn, side: str) -> None:
    write(tmp_path, drawn.case, side, steps(), "AssertionError: no")
    assert f"{side}: AssertionError: no" in compare(tmp_path, drawn).wrong


def test_a_tight_case_in_which_nothing_happened_is_counted_as_such(drawn: Drawn) -> None:
    outcome = Outcome(drawn, {"evictions": 3, "preemptions": 0}, [], {})
    row = summary([outcome, outcome], seed=1)
    assert (row["tight"], row["tight_not_pressed"], row["pressed"]) == (2, 2, 0)


def test_a_case_that_differs_leaves_a_file_that_holds_it(
    tmp_path: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tell(Outcome(drawn, {}, [], {}))
    path = tmp_path / f"parity-{drawn.case.name}.json"
    assert not path.exists()
    tell(Outcome(drawn, {}, ["driver: step 3"], {}))
    values = json.loads(path.read_text())
    assert Drawn(values["number"], values["is_tight"], Case.read(values["case"])) == drawn
    assert values["differences"] == ["driver: step 3"]
    assert "driver: step 3" in capsys.readouterr().out


def test_a_sabotaged_case_needs_no_driver(tmp_path: Path) -> None:
    number, is_tight, case = draw(1, 1)
    wrong = Drawn(number, is_tight, replace(case, executor=SABOTAGED))
    for side in SIDES[:2]:
        write(tmp_path, wrong.case, side, steps())
    assert compare(tmp_path, wrong).wrong == []


def test_only_a_step_that_differs_finds_a_sabotaged_executor(drawn: Drawn) -> None:
    assert is_found(Outcome(drawn, {}, ["simulator: step 3, tokens: 1, and 2 in the simulator"], {}))
    for line in ("real: it did not start", "simulator: it did not start", "simulator: 2 steps, and 1 in the simulator"):
        assert not is_found(Outcome(drawn, {}, [line], {}))
