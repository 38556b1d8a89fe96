"""`vllm-sim trace` from the outside, and what its import may cost."""

import json
import subprocess
import sys

import pytest

from vllm_sim.cli import main, trace
from vllm_sim.trace.formats import CONVERTERS

HASHES = {"hash_ids": [1, 2], "input_length": 32, "hash_block_size": 16, "output_length": 3, "session_id": "a"}


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.jsonl"
    path.write_text((json.dumps(HASHES) + "\n") * 2)
    return path


def test_validate_tells_lines_and_reasons_and_fails(good, tmp_path, capsys):
    assert main(["trace", "validate", str(good)]) == 0
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": 3, "response": ""}\n\n[]\n')
    assert main(["trace", "validate", str(good), str(bad)]) == 1
    out = capsys.readouterr().out
    assert f"{bad}, line 1: prompt is 3; allowed: a text" in out
    assert f"{bad}, line 3: " in out
    assert f"{bad}: 0 records, 2 faults" in out


def test_stats_prints_json_and_a_table(good, capsys):
    assert main(["trace", "stats", str(good), "--json", "--block-sizes", "16"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["blocks"][0]["seen_before_share"] == 0.5
    assert main(["trace", "stats", str(good)]) == 0
    assert "50.0%" in capsys.readouterr().out


def test_convert_writes_trace_and_report(tmp_path, capsys):
    dump = tmp_path / "dump.json"
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}, {"from": "human", "value": "c"}]
    dump.write_text(json.dumps([{"id": "x", "conversations": turns}]))
    out, report = tmp_path / "out.jsonl", tmp_path / "report.json"
    assert main(["trace", "convert", "--from", "sharegpt", str(dump), str(out), "--report", str(report)]) == 0
    printed = capsys.readouterr()
    assert "dropped 1: turn: not answered" in printed.err
    assert "1 requests, 1 sessions" in printed.out
    assert json.loads(report.read_text())["dropped"] == {"turn: not answered": 1}
    assert main(["trace", "validate", str(out)]) == 0


def test_convert_anonymises(good, tmp_path):
    out = tmp_path / "out.jsonl"
    assert main(["trace", "convert", "--from", "native", str(good), str(out), "--anonymise"]) == 0
    first, second = map(json.loads, out.read_text().splitlines())
    assert first["hash_ids"] == second["hash_ids"] != [1, 2]


def test_the_command_knows_every_format():
    assert set(trace.FORMATS) == set(CONVERTERS)


def test_a_wrong_input_is_one_line_and_exit_code_1(tmp_path, capsys):
    assert main(["trace", "stats", str(tmp_path / "none.jsonl")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", [["--help"], *(["trace", c, "--help"] for c in ("validate", "stats", "convert"))])
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys\nfrom vllm_sim.cli import main\n"
        f"try: main({command!r})\nexcept SystemExit: pass\n"
        "heavy = {'vllm', 'torch', 'transformers', 'numpy', 'rich', 'tokenizers', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    if command != ["--help"]:
        assert "example" in done.stdout


def test_the_trace_and_workload_layers_import_neither_vllm_nor_torch():
    code = (
        "import importlib, pkgutil, sys\n"
        "import vllm_sim.trace, vllm_sim.workloads\n"
        "for package in (vllm_sim.trace, vllm_sim.workloads):\n"
        "    for module in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        importlib.import_module(module.name)\n"
        "heavy = {'vllm', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
