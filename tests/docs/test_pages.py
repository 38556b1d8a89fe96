"""What the README and the manual tell a newcomer to type does what they say it does."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from tests.docs.pages import PAGES, ROOT, Block, blocks, commands

RUN = [page for page in PAGES if any(block.is_run and not block.is_slow for block in blocks(page))]
SLOW = [page for page in PAGES if any(block.is_run and block.is_slow for block in blocks(page))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with what the repository's has at set-up."""
    (tmp_path / "exported_models").symlink_to(ROOT / "exported_models")
    shutil.copy(ROOT / "trace.jsonl", tmp_path)
    return tmp_path


def execute(block: Block, folder: Path) -> str:
    """What the commands of a block print; in this process where they are `vllm-sim` alone and start no workers."""
    lines = [*commands(block)]
    if not re.search(r"[|<>$&;]|sweep|\w:\w", block.text) and all(line[0] == "vllm-sim" for line in lines):
        with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setenv("COLUMNS", "120")
            patch.setenv("NO_COLOR", "1")
            done = [vllm_sim(*line[1:]) for line in lines]
        assert not any(one.returncode for one in done), f"{block.place}:\n{block.text}\n{done}"
        return "".join(one.stdout for one in done)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "120", "NO_COLOR": "1"}
    run = subprocess.run(
        ["bash", "-ec", block.text], cwd=folder, env=environment, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, f"{block.place}:\n{block.text}\n{run.stdout}\n{run.stderr}"
    return run.stdout


def words(text: str) -> list[list[str]]:
    """The words of each line that has some; a ruled line is as wide as its table happens to be."""
    return [re.sub("─+", "─", line).split() for line in text.splitlines() if line.strip()]


def compare(block: Block, printed: str) -> None:
    """Every line of a block is printed, in order and next to each other except where the block has `...`."""
    lines = words(printed)
    place = 0
    for part in block.text.split("...\n"):
        wanted = words(part)
        places = range(place, len(lines) - len(wanted) + 1)
        found = next((i for i in places if lines[i : i + len(wanted)] == wanted), None)
        assert found is not None, f"{block.place}:\n{part}is not in:\n{printed}"
        place = found + len(wanted)


def follow(page: str, folder: Path, slow: bool) -> None:
    """Writes the files of a page and runs its commands, in order."""
    printed = ""
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.is_output:
            if printed:
                compare(block, printed)
        elif block.is_run:
            printed = execute(block, folder) if slow or not block.is_slow else ""


@pytest.mark.parametrize("page", RUN)
def test_the_commands_of_a_page_run(page: str, folder: Path) -> None:
    follow(page, folder, slow=False)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW)
def test_the_slow_commands_of_a_page_run(page: str, folder: Path) -> None:
    follow(page, folder, slow=True)


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_a_file_or_commands_or_what_they_print(page: str) -> None:
    for block in blocks(page):
        kinds = [block.file is not None, block.is_output, block.language == "sh"]
        assert sum(kinds) == 1, f"{block.place} is none of them or several"
        assert block.mark in ("", "slow", "output") or block.reason, f"{block.place}: unknown comment {block.mark!r}"


def test_a_command_that_fails_is_named(folder: Path) -> None:
    with pytest.raises(AssertionError, match=r"README\.md, line 7"):
        execute(Block("README.md", 7, "sh", "false\n", None, ""), folder)


@pytest.mark.parametrize("printed", ["a 1\nc 3\n", "a 1\nb 3\n", "a 1\nx\nb 2\n", "b 2\na 1\n", ""])
def test_other_output_than_the_page_shows_is_found(printed: str) -> None:
    with pytest.raises(AssertionError):
        compare(Block("README.md", 7, "text", "a  1\nb 2\n", None, "output"), printed)


def test_output_may_leave_lines_out_where_it_says_so() -> None:
    block = Block("README.md", 7, "text", "a 1\n...\nb 2\nc 3\n", None, "output")
    compare(block, "first\na   1\nx\ny\nb 2\nc 3\nlast\n")
    with pytest.raises(AssertionError):
        compare(block, "a 1\nx\nb 2\ny\nc 3\n")
