"""How much of a session's history came back as other tokens, by hand."""

import json
from pathlib import Path
from typing import Any

from tests.serving import MODEL, write_trace
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay

END = 128009


def turn(prompt: list[int], response: list[int], **more: Any) -> dict[str, Any]:
    return {"prompt_token_ids": prompt, "response_token_ids": response, "session_id": "s", **more}


def counts(tmp_path: Path, rows: list[dict[str, Any]]) -> tuple[list[int | None], Any]:
    trace = write_trace(tmp_path / "t.jsonl", rows)
    summary = replay(trace, tmp_path / "out", RunConfig(model=str(MODEL), backend="fast", block_size=4))
    found = [json.loads(line)["retokenised_tokens"] for line in (tmp_path / "out" / "requests.jsonl").open()]
    return found, summary.retokenised_tokens


def test_tokens_after_the_first_difference_are_counted(tmp_path: Path) -> None:
    rows = [turn([1, 2, 3], [4, 5, 6, END]), turn([1, 2, 3, 4, 9, 6, END, 7], [8, END])]
    assert counts(tmp_path, rows) == ([0, 2], 2)


def test_same_tokens_count_nothing_and_the_end_token_was_never_computed(tmp_path: Path) -> None:
    rows = [turn([1, 2], [4, END]), turn([1, 2, 4, END, 7], [8, END]), turn([1, 2, 4, END, 7, 8, 9], [5, END])]
    assert counts(tmp_path, rows) == ([0, 0, 0], 0)


def test_a_shorter_prompt_counts_as_far_as_it_reaches(tmp_path: Path) -> None:
    assert counts(tmp_path, [turn([1, 2, 3, 4], [5, END]), turn([1, 9, 3], [5, END])]) == ([0, 2], 2)


def test_rows_of_unknown_tokens_have_no_count(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt_token_ids": [1, 2], "output_length": 3, "session_id": "s"},
        turn([1, 2, 3, 4], [5, END]),
    ]
    assert counts(tmp_path, rows) == ([0, None], 0)
