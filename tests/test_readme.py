"""The worked example of the README, as it stands there: its files, its commands, its numbers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SECTION = re.search(
    r"^## Your own trace and your own policy$(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
)


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a newcomer did what the section says."""
    assert SECTION
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "exported_models").symlink_to(ROOT / "exported_models")
    for name, content in re.findall(r"`(\w+\.\w+)`:\n\n```(?:json|toml|python)\n(.*?)^```", SECTION[1], re.M | re.S):
        (folder / name).write_text(content, encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for commands in re.findall(r"^```sh\n(.*?)^```", SECTION[1], re.M | re.S):
        run = subprocess.run(
            ["bash", "-ec", commands], cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
    return folder


def test_the_chats_are_replayed(tried: Path):
    row = json.loads((tried / "run" / "summary.jsonl").read_text(encoding="utf-8"))
    assert (row["requests"], row["backend"]) == (3, "engine")
    assert row["hit_generated_tokens"] > 0


def test_the_hit_rates_are_those_of_the_table(tried: Path):
    assert SECTION
    rows = [json.loads(line) for line in (tried / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    header, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\|.*", SECTION[1], re.M)
    ]
    assert len(rows) == 8
    for capacity, line in zip(sorted({row["capacity_blocks"] for row in rows}), lines[1:], strict=True):
        found = {row["policy"]: f"{row['token_hit_rate']:.4f}" for row in rows if row["capacity_blocks"] == capacity}
        assert found == dict(zip(header[1:], line[1:], strict=True))


def test_there_is_a_plot(tried: Path):
    assert list((tried / "plots").glob("*.png"))
