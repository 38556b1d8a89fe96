"""The lock of a file of rows."""

from pathlib import Path

import pytest

from vllm_sim.sweep.lock import only_writer


def test_an_error_of_the_one_who_holds_the_lock_is_his_own(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match="a pipe is full"), only_writer(tmp_path):
        raise BlockingIOError("a pipe is full")
    with only_writer(tmp_path):
        pass
