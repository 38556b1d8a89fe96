"""The lock of a file of rows."""

from pathlib import Path

import pytest

from vllm_sim.sweep.lock import only_writer


def test_an_error_of_the_one_who_holds_the_lock_is_his_own(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    with pytest.raises(BlockingIOError, match="a pipe is full"), only_writer(rows):
        raise BlockingIOError("a pipe is full")
    with only_writer(rows):
        assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl.lock"]
    assert not list(tmp_path.iterdir())
