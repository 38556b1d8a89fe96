"""Writing files: what a killed writer leaves is taken away, and a full disk is an error with the file's name."""

import errno
import os
import resource
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.serving import MODEL, write_trace
from vllm_sim.cli import main
from vllm_sim.trace.output import name_errors, open_output

KILLED = """
import os, signal, sys
from pathlib import Path
from vllm_sim.trace.output import open_output
with open_output(Path(sys.argv[1])) as file:
    file.write("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_and_what_is_another_files_or_still_written_stays(tmp_path: Path) -> None:
    out = tmp_path / "data"
    assert subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False).returncode == -signal.SIGKILL
    (abandoned,) = tmp_path.iterdir()
    others = [tmp_path / name for name in (".data.settings", ".data.gz.abcdefgh.partial", "data.partial")]
    for path in others:
        path.touch()
    with open_output(out) as one:
        one.write("one")
        with open_output(out) as other:
            other.write("other")
        assert not abandoned.exists()
    assert out.read_text() == "one"
    assert sorted(tmp_path.iterdir()) == sorted([out, *others])


def test_a_full_disk_is_told_with_the_files_name_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    trace = write_trace(tmp_path / "t.jsonl", [{"prompt": "a" * 5000, "response": "b"}] * 20)
    out = tmp_path / "out"
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for command, name in (
        (["trace", "convert", "--from", "native", str(trace), str(out / "converted.jsonl")], "converted.jsonl"),
        (["replay", str(trace), "--backend", "fast", "--out", str(out), "--model", str(MODEL)], "cache"),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            assert main(command) == 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        error = capsys.readouterr().err
        assert "File too large" in error
        assert str(tmp_path) in error
        assert name in error
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != trace]


def test_an_error_that_has_a_name_or_is_no_lack_of_room_is_left_as_it_is(tmp_path: Path) -> None:
    for error in (OSError(errno.ENOSPC, "full", "its own"), OSError(errno.EINVAL, "invalid"), OSError("text")):
        with pytest.raises(OSError, match=r".*") as raised, name_errors(tmp_path):
            raise error
        assert raised.value is error


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_every_command_refuses_what_is_no_file_and_waits_for_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    path = {"pipe": tmp_path / "pipe", "device": Path("/dev/null"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    out, model = str(tmp_path / "out"), ["--model", str(MODEL)]
    commands = [
        ["trace", "validate", str(path)],
        ["trace", "stats", str(path), *model],
        *(["trace", "convert", "--from", name, str(path), out] for name in ("native", "sharegpt", "openai", "bailian")),
        ["replay", str(path), "--backend", "fast", "--out", out, *model],
        ["sweep", str(path), "--out", out, *model],
    ]
    for command in commands:
        assert main(command) == 1, command
        captured = capsys.readouterr()
        assert f"{path}: cannot be read: a pipe, a folder or a device; allowed: a file" in captured.out + captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["replay", "t", "--out", "o", "--capacity-blocks", str(10**20)],
            f"capacity_blocks is {10**20}; allowed: up",
        ),
        (["replay", "t", "--out", "o", "--seed", str(2**70)], "seed is 11805"),
        (["trace", "stats", "t", "--block-sizes", "16,x"], "'16,x' is not a list of whole numbers, as in 16,64"),
        (["replay", "t", "--out", "o", "--policy-params", '{"a": NaN}'], "NaN is not finite"),
        (["replay", "t", "--out", "o", "--policy-params", '{"a": 1e999}'], "1e999 is not finite"),
        (["sweep", "t", "--out", "o.jsonl", "--capacities", "1" * 400], "allowed: up to 2,147,483,647 blocks"),
    ],
)
def test_messages_name_what_they_are_about(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_trace(tmp_path / "t", [{"prompt_token_ids": [1] * 40, "response": "b"}])
    with suppress(SystemExit):  # of what is no argument
        assert main([*arguments, *(["--model", str(MODEL)] if arguments[0] != "trace" else [])]) == 1
    assert message in capsys.readouterr().err


def test_a_replay_into_a_used_folder_leaves_nothing_of_the_old_run(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "t.jsonl", [{"prompt": "a", "response": "b"}])
    out = tmp_path / "out"
    out.mkdir()
    for name in ("summary.jsonl", "evictions.jsonl", "blocks.jsonl", "own.txt"):
        (out / name).write_text("of another run")
    assert main(["replay", str(trace), "--backend", "fast", "--out", str(out), "--model", str(MODEL)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "own.txt", "requests.jsonl", "run.json", "sessions.jsonl", "summary.jsonl",
    ]  # fmt: skip
    assert "of another run" not in (out / "summary.jsonl").read_text()
    failing = [
        "replay",
        str(trace),
        "--backend",
        "fast",
        "--out",
        str(out),
        "--policy",
        "nosuch",
        "--model",
        str(MODEL),
    ]
    assert main(failing) == 1
    assert (out / "summary.jsonl").exists()


def test_a_trace_that_a_replay_would_write_over_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = write_trace(tmp_path / "requests.jsonl", [{"prompt": "a", "response": "b"}])
    before = trace.read_bytes()
    assert main(["replay", str(trace), "--backend", "fast", "--out", str(tmp_path), "--model", str(MODEL)]) == 1
    assert "where this run writes requests.jsonl; allowed: another folder" in capsys.readouterr().err
    assert trace.read_bytes() == before
