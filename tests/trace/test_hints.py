"""Hints of clients: how rows say them, and what is added to a trace that has none."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vllm_sim
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.hinting import KEPT, LAST, MARGIN, Hinting, add_hints
from vllm_sim.trace.hints import Hints, hints_of
from vllm_sim.trace.record import parse_record

ROW = {"hash_ids": [1], "input_length": 16, "hash_block_size": 16, "output_length": 1}
FOUR_SESSIONS = [
    ROW | {"session_id": session, "timestamp": 1000 * turn + 10 * session} for turn in range(50) for session in range(4)
]


def action(payload: dict[str, Any], kind: str = "session") -> dict[str, Any]:
    return {"action_id": "1", "action_type": kind, "action_version": "1", "payload": payload}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(path: Path) -> list[Hints]:
    return [hints_of(record) for _, record in iter_records(path)]


def test_a_field_of_the_row_goes_before_its_kv_hints_and_other_actions_are_passed_over():
    actions = [action({"next_turn_ms": 5, "retention_priority": 9}), action({"retention_ms": 1}, "prefetch")]
    found = hints_of(parse_record(ROW | {"next_turn_ms": 7, "kv_hints": {"actions": actions}}))
    assert (found.next_turn_ms, found.retention_priority) == (7, 9)
    assert math.isnan(found.session_end)
    assert math.isnan(found.retention_ms)


@pytest.mark.parametrize(
    ("kv_hints", "message"),
    [
        ({"actions": 3}, "actions of kv_hints are 3"),
        ({"actions": ["a"]}, "an action of kv_hints is 'a'"),
        ({"actions": [action({"retention_priority": 101})]}, "retention_priority is 101; allowed: 0 to 100"),
        ({"actions": [action({"session_end": "yes"})]}, "session_end is 'yes'; allowed: 0 to 1"),
    ],
)
def test_a_hint_that_is_none_is_refused(kv_hints: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        hints_of(parse_record(ROW | {"kv_hints": kv_hints}))


def test_right_hints_are_what_the_trace_shows(tmp_path: Path):
    out = tmp_path / "out.jsonl"
    rows = [ROW | {"session_id": "a", "timestamp": 0}, ROW, ROW | {"session_id": "a", "timestamp": 250}]
    assert add_hints(write(tmp_path / "in.jsonl", rows), out, Hinting()) == (3, 2, 3)
    assert [hint.session_end for hint in said(out)] == [0, 1, 1]
    assert [hint.next_turn_ms for hint in said(out)] == pytest.approx([250, math.nan, math.nan], nan_ok=True)


def test_a_row_without_a_session_is_not_one_of_a_session_named_by_a_number(tmp_path: Path):
    rows = [ROW | {"session_id": 1, "timestamp": 0}, ROW, ROW | {"session_id": 1, "timestamp": 250}]
    assert add_hints(write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl", Hinting()).sessions == 2


def test_priorities_are_made_of_the_end_and_of_the_time_to_the_next_turn(tmp_path: Path):
    rows = [ROW | {"session_id": 1, "timestamp": 0}, ROW | {"session_id": 1, "timestamp": 200}]
    source = write(tmp_path / "in.jsonl", rows)
    add_hints(source, tmp_path / "out.jsonl", Hinting(["retention"]))
    kept, last = said(tmp_path / "out.jsonl")
    assert (kept.retention_priority, kept.retention_ms, last.retention_priority) == (KEPT, MARGIN * 200, LAST)
    assert all(math.isnan(value) for value in (last.retention_ms, last.session_end, kept.next_turn_ms))
    add_hints(source, tmp_path / "lies.jsonl", Hinting(["retention"], lies=1))
    assert [hint.retention_priority for hint in said(tmp_path / "lies.jsonl")] == [LAST, KEPT]


def test_a_share_of_sessions_says_nothing_and_a_share_of_hints_lies(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", FOUR_SESSIONS * 5)
    rows = [row | {"session_id": i // 5} for i, row in enumerate(FOUR_SESSIONS * 5)]
    source = write(tmp_path / "many.jsonl", rows)
    add_hints(source, tmp_path / "half.jsonl", Hinting(share=0.5, seed=1))
    silent = [math.isnan(hint.session_end) for hint in said(tmp_path / "half.jsonl")]
    assert 0.35 < sum(silent) / len(silent) < 0.65
    assert all(len(set(silent[i : i + 5])) == 1 for i in range(0, len(silent), 5))
    add_hints(source, tmp_path / "lies.jsonl", Hinting(lies=0.2))
    wrong = [hint.session_end != (i % 5 == 4) for i, hint in enumerate(said(tmp_path / "lies.jsonl"))]
    assert 0.15 < sum(wrong) / len(wrong) < 0.25


def test_noise_is_a_log_normal_factor_and_one_seed_gives_the_same_bytes(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", FOUR_SESSIONS)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        add_hints(source, tmp_path / name, Hinting(["next"], noise=1.0, seed=seed))
    texts = [(tmp_path / name).read_bytes() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    logs = [math.log(hint.next_turn_ms / 1000) for hint in said(tmp_path / "a") if hint.next_turn_ms > 0]
    assert len(logs) == 196
    assert 0.8 < math.sqrt(sum(value**2 for value in logs) / len(logs)) < 1.2
    assert all(math.isnan(hint.session_end) for hint in said(tmp_path / "a"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kinds", "end,soon"], "kind of hint is 'soon'; allowed: end, next, retention"),
        (["--lies", "2"], "lies is 2.0; allowed: 0 to 1"),
    ],
)
def test_the_command_names_what_it_refuses(tmp_path: Path, options: list[str], message: str):
    source = write(tmp_path / "in.jsonl", FOUR_SESSIONS[:2])
    done = vllm_sim("trace", "hints", source, tmp_path / "out.jsonl", *options)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_a_row_without_a_time_is_named(tmp_path: Path):
    source = write(tmp_path / "in.jsonl", [ROW | {"session_id": 1, "timestamp": 1}, ROW | {"session_id": 1}])
    with pytest.raises(ValueError, match=r"in\.jsonl, line 2: no timestamp"):
        add_hints(source, tmp_path / "out.jsonl", Hinting())
