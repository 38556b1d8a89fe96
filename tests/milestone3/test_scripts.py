"""The scripts of study two as a user meets them, on a mix that is made here."""

import subprocess
import sys
from pathlib import Path

import pytest

from milestone3_code.study.build import fetch
from tests.commands import script
from tests.milestone3.making import CONSTANT, MODEL, ROOT, make_study
from vllm_sim.sweep.results import read_rows

SCRIPTS = (
    "build_mixes.py",
    "compare_policies.py",
    "tune_hybrid.py",
    "visualize_task3.py",
    "visualize_task3_advance.py",
)


def run(name: str, *words: object, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return script(f"milestone3_code/{name}", *words, folder=folder)


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_says_what_it_does_from_any_folder(name: str, tmp_path: Path) -> None:
    done = run(name, "--help", folder=tmp_path)
    assert (done.returncode, "usage" in done.stdout) == (0, True)


def test_a_missing_input_names_the_step_before(tmp_path: Path) -> None:
    for name in ("compare_policies.py", "tune_hybrid.py"):
        done = run(name, "--data", tmp_path)
        assert (done.returncode, "first run milestone3_code/build_mixes.py" in done.stderr) == (1, True)
    for name in SCRIPTS[3:]:
        done = run(name, "--results", tmp_path)
        assert (done.returncode, "first run milestone3_code/compare_policies.py" in done.stderr) == (1, True)
    done = run("build_mixes.py", "report_none")
    assert (done.returncode, "no mix report_none; allowed: report_agents" in done.stderr) == (1, True)


def test_the_scripts_make_mixes_rows_and_plots_and_tune_one_after_the_other(tmp_path: Path) -> None:
    plan, study = make_study(tmp_path)
    data, results, figures = tmp_path / "mixes_built", tmp_path / "rows", tmp_path / "figures"
    done = run("build_mixes.py", "--no-download", "--configs", study.configs, "--out", data, "--seeds", 2)
    assert done.returncode == 0, done.stderr
    assert (data / "report_tiny.jsonl").read_bytes() == study.trace("tiny").read_bytes()
    given = ("--plan", plan, "--data", data, "--model", MODEL, "--jobs", 1)
    done = run("compare_policies.py", *given, "--out", results, "--hash-trace", tmp_path / "hashes.jsonl", "--quick")
    assert done.returncode == 0, done.stderr
    assert all(row["quick"] for row in read_rows(results / "mixed.jsonl"))
    for name in SCRIPTS[3:]:
        done = run(name, "--results", results, "--out", figures)
        assert done.returncode == 0, done.stderr
    names = {path.stem for path in figures.glob("*.png")}
    assert {"mixed_alone", "mixed_gains", "mixed_gap", "mixed_guarantee", "mixed_matrix", "mixed_windows"} <= names
    assert {path.stem for path in figures.glob("*.pdf")} == names
    done = run("tune_hybrid.py", *given, "--hash-trace", tmp_path / "hashes.jsonl")
    assert done.returncode == 0, done.stderr
    assert f'best: --policy-params \'{{"{CONSTANT}"' in done.stdout


@pytest.mark.slow
def test_the_engine_serves_a_mix_at_loads_and_its_optimum_is_one(tmp_path: Path) -> None:
    plan, study = make_study(tmp_path)
    given = ("--plan", plan, "--data", study.data, "--model", MODEL, "--jobs", 1, "--out", study.results)
    done = run("compare_policies.py", *given, "--part", "engine")
    assert done.returncode == 0, done.stderr
    rows = read_rows(study.results / "mixed_engine.jsonl")
    assert [(row["load"], row["policy"]) for row in rows] == [
        (load, policy) for load in (1.0, 2.0) for policy in ("lru", "hybrid", "belady")
    ]
    for load in (1.0, 2.0):
        lru, hybrid, best = (row for row in rows if row["load"] == load)
        assert len({(row["requests"], row["prompt_tokens"]) for row in (lru, hybrid, best)}) == 1
        assert lru["requests"] == lru["trace_requests"] - lru["warmup_requests"] > 0
        assert lru["gain_over_lru"] == lru["ttft_over_lru_ms"] == 0.0
        assert best["token_hit_rate"] > max(lru["token_hit_rate"], hybrid["token_hit_rate"])
        assert best["gain_over_lru"] == pytest.approx(best["token_hit_rate"] - lru["token_hit_rate"], abs=2e-6)
        assert best["future_settled"]
        for part in (best, *best["by_workload"].values()):
            low, high = part["ttft_ms_p90_ci95"]
            assert 0 < low <= part["ttft_ms_p90"] <= high
    assert rows[3]["running_requests"] > rows[0]["running_requests"]


def test_a_text_that_is_missing_is_got_by_the_command_of_its_source(tmp_path: Path) -> None:
    configs = tmp_path / "code"
    configs.mkdir()
    config = configs / "mixed.toml"
    get = "python -c \\\"open('text', 'w')\\\""
    config.write_text(f'[sources.chat]\nkind = "trace"\npath = "../text"\nget = "{get}"\n')
    said: list[str] = []
    fetch(config, tmp_path, said.append)
    assert (tmp_path / "text").is_file()
    fetch(config, tmp_path, said.append)
    assert len(said) == 1
    config.write_text('[sources.chat]\nkind = "trace"\npath = "../other"\nget = "true"\n')
    with pytest.raises(ValueError, match=r"no \.\./other, exit code 0 of: true"):
        fetch(config, tmp_path, said.append)


def test_commands_of_sources_run_with_this_interpreter_and_say_python_as_they_like(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "a folder" / "python"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/given"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    config = tmp_path / "mixed.toml"
    gets = ".venv/bin/pip download", "echo a python says > said"
    config.write_text(
        "".join(
            f'[sources.{name}]\nkind = "trace"\npath = "{name}"\nget = "{get}"\n'
            for name, get in zip(("given", "said"), gets, strict=True)
        )
    )
    fetch(config, tmp_path, lambda text: None)
    assert (tmp_path / "given").read_text() == "-m pip download\n"
    assert (tmp_path / "said").read_text() == "a python says\n"
    config.write_text('[sources.chat]\nkind = "trace"\npath = "other"\n')
    with pytest.raises(ValueError, match="chat: no other, and no key get with a command that brings it"):
        fetch(config, tmp_path, lambda text: None)
