"""Names out of a trace are shown as they are: no markup, no escape that reaches the terminal, no column that is cut."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.commands import vllm_sim
from tests.serving import MODEL
from vllm_sim.terminal import printable, show_table

NAMES = ("[/b]", "[tool]", "a\x1b[31mb", "x$\\frac{$")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_shown_as_it_is_without_control_characters(name: str) -> None:
    out = io.StringIO()
    show_table(name, (name, "n"), [(name, "1")], console=Console(file=out, force_terminal=True, width=40))
    assert out.getvalue().count(printable(name)) == 3
    assert "\x1b[31mb" not in out.getvalue()


def test_no_number_is_cut_in_a_pipe() -> None:
    out = io.StringIO()
    show_table("wide", ("name", *map(str, range(30))), [("row", *["1,000,000"] * 30)], console=Console(file=out))
    assert out.getvalue().count("1,000,000") == 30


def test_replay_and_stats_of_a_trace_with_such_names_end_well(tmp_path: Path) -> None:
    trace = tmp_path / "data[train].jsonl"
    rows = [{"prompt": "a b c d", "response": "e", "workload": name, "timestamp": 0} for name in NAMES]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows, model = tmp_path / "rows.jsonl", ("--model", MODEL)
    commands = (
        ("replay", trace, "--out", tmp_path / "out", "--backend", "fast", *model),
        ("trace", "stats", trace, *model),
        ("sweep", trace, "--out", rows, "--capacities", "2,4", "--jobs", "1", *model),
        ("plot", rows, "--out", tmp_path / "plots"),
    )
    for line in commands:
        done = vllm_sim(*line)
        assert done.returncode == 0, done.stderr
        assert "\x1b[31m" not in done.stdout
        if line[0] != "plot":
            assert "data[train].jsonl" in done.stdout


def test_a_name_that_an_error_or_a_report_repeats_cannot_steer_the_terminal(tmp_path: Path) -> None:
    trace = tmp_path / "a\x1b[31mb.jsonl"
    trace.write_text("{\n")
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps([{"id": "x\x1b[31my", "conversations": [{"from": "human", "value": ""}]}]))
    out = str(tmp_path / "out.jsonl")
    for line in (["validate", str(trace)], ["stats", str(trace)], ["convert", "--from", "sharegpt", str(dump), out]):
        command = [str(Path(sys.executable).with_name("vllm-sim")), "trace", *line]
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 1
        assert "\\x1b[31m" in done.stdout + done.stderr
        assert "\x1b" not in done.stdout + done.stderr
