"""A workload's configuration: each mistake is one error with file, table, key, value and what is allowed."""

from pathlib import Path

import pytest

from vllm_sim.cli.main import main
from vllm_sim.workloads.config import read_workload
from vllm_sim.workloads.tables import ConfigError

MIXED = Path(__file__).parents[2] / "milestone3_code" / "mixed.toml"
GOOD = """
seed = 1
[sources.calls]
kind = "oneoff"
sessions = 5
start_s = 1
arrivals = { kind = "gamma", sessions_per_s = 1.0, burstiness = 0.5 }
think_ms = { kind = "lognormal", median = 10, sigma = 1 }
"""
CALLS = r"table \[sources.calls\]"
BAD = [
    ("seed = 1", "seed = -1", r"top level: seed is -1; allowed: a whole number, 0 to"),
    (
        "seed = 1",
        "seeds = 1",
        r"top level: seeds is 1; allowed: no such key here; the keys are seed, ",
    ),
    ('"oneoff"', '"chat"', rf'{CALLS}: kind is "chat"; allowed: trace, agents, documents, fewshot, oneoff'),
    ('kind = "oneoff"\n', "", rf"{CALLS}: kind is missing; allowed: trace, "),
    ("sessions = 5", "sessions = 0", rf"{CALLS}: sessions is 0; allowed: a whole number, 1 to"),
    ("sessions = 5", "sessions = true", rf"{CALLS}: sessions is true; allowed"),
    ("sessions = 5", "share = 0.5", rf"{CALLS}: share is 0.5; allowed: .* sessions = NUMBER"),
    ("sessions = 5", "sessions = 5\nshare = 0.5", rf"{CALLS}: one of sessions, share is needed, found: sessions and"),
    ("seed = 1", "sessions = 9", None),
    ("sessions = 5", "sessions = 5\ntenant = 1.5", rf"{CALLS}: tenant is 1.5; allowed: a text or a whole number"),
    ("sessions = 5", 'sessions = 5\ncache_salt = ""', rf'{CALLS}: cache_salt is ""; allowed: a text that is not'),
    ("sessions = 5", "sessions = 5\nend_s = 1", rf"{CALLS}: end_s is 1; allowed: a number, more than 1 to"),
    ("start_s = 1", "start = 1", rf"{CALLS}: start is 1; allowed: no such key here; the keys are kind, "),
    ("start_s = 1", "start_s = nan", rf"{CALLS}: start_s is NaN; allowed: a number, 0 to"),
    ('"gamma"', '"regular"', r'table \[sources.calls.arrivals\]: kind is "regular"; allowed: poisson, gamma, recorded'),
    (", burstiness = 0.5", "", r"sources.calls.arrivals\]: burstiness is missing; allowed: a number, 0.001 to"),
    ('"gamma"', '"poisson"', r"sources.calls.arrivals\]: burstiness is 0.5; allowed: no such key here"),
    ("sessions_per_s = 1.0, ", "", r"arrivals\]: one of sessions_per_s, requests_per_s is needed, found: none"),
    ("sessions_per_s = 1.0", "sessions_per_s = 0", r"arrivals\]: sessions_per_s is 0; allowed: a number, 1e-06 to"),
    ('"gamma", sessions_per_s = 1.0, burstiness = 0.5', '"recorded"', None),
    ('"lognormal"', '"normal"', r'think_ms\]: kind is "normal"; allowed: fixed, uniform, lognormal, recorded'),
    ("median = 10", "median = 10, mean = 5", r"think_ms\]: mean is 5; allowed: no such key here; the keys are kind"),
    ("sigma = 1 ", "sigma = '1' ", r'think_ms\]: sigma is "1"; allowed: a number, 0 to 5'),
    ("think_ms = {", "think_ms = 5 #", rf"{CALLS}: think_ms is 5; allowed: a table"),
    ("seed = 1", "seed = ", r"not TOML: .*line 2"),
    ("[sources.calls]", "[sauces.calls]", r"top level: sources is missing; allowed: a table"),
]


@pytest.mark.parametrize(("good", "bad", "message"), BAD)
def test_a_mistake_is_one_error_with_table_key_value_and_what_is_allowed(tmp_path, good, bad, message):
    path = tmp_path / "w.toml"
    path.write_text(GOOD)
    read_workload(path)
    assert good in GOOD
    path.write_text(GOOD.replace(good, bad))
    if message is None:
        read_workload(path)
        return
    with pytest.raises(ConfigError, match=message) as caught:
        read_workload(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_no_source_and_shares_of_more_than_all_are_errors(tmp_path):
    path = tmp_path / "w.toml"
    path.write_text("[sources]\n")
    with pytest.raises(ConfigError, match=r"table \[sources\]: it is empty"):
        read_workload(path)
    half = GOOD[GOOD.index("[") :].replace("sessions = 5", "share = 0.6")
    path.write_text("sessions = 10\n" + half + half.replace("calls", "others"))
    with pytest.raises(ConfigError, match=r"the shares add up to 1.2; allowed: 1 or less"):
        read_workload(path)


def failure(path: Path, capsys) -> str:
    assert main(["workload", "build", str(path), "--out", str(path.parent / "out.jsonl")]) == 1
    assert not (path.parent / "out.jsonl").exists()
    return capsys.readouterr().err


def test_what_a_source_lacks_is_an_error_and_nothing_is_written(tmp_path, capsys):
    path = tmp_path / "w.toml"
    trace = '[sources.t]\nkind = "trace"\npath = "t.jsonl"\narrivals = { kind = "at_once" }\n'
    path.write_text(trace + 'get = "make t.jsonl"')
    assert 'path is "t.jsonl"; allowed: a native trace that is there; to get it: make t.jsonl' in failure(path, capsys)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a", "response": "b", "session_id": 1}\n' * 2)
    path.write_text(trace + "sessions = 3")
    assert "[sources.t]: " in (error := failure(path, capsys))
    assert "3 sessions are configured; allowed: 1 to 1" in error
    path.write_text(trace.replace("at_once", "recorded"))
    assert "has no timestamp; arrivals allowed: poisson" in failure(path, capsys)
    path.write_text(trace + 'think_ms = { kind = "recorded" }')
    assert "has neither think_time_ms nor a timestamp" in failure(path, capsys)
    (tmp_path / "t.jsonl").write_text('{"prompt": "a"}\n')
    path.write_text(trace)
    assert "t.jsonl, line 1: a record has one response field" in failure(path, capsys)
    path.write_text(GOOD.replace("sessions = 5\n", ""))
    assert "kind oneoff has no end; allowed: sessions or share" in failure(path, capsys)
    path.write_text(GOOD + "end_s = 1.0001")
    assert "no request arrives before its source's end_s" in failure(path, capsys)
    assert "cannot be read: No such file" in failure(tmp_path / "gone.toml", capsys)


def test_a_trace_that_is_read_is_not_written_over(tmp_path, capsys):
    trace = tmp_path / "t.jsonl"
    trace.write_text('{"prompt": "a", "response": "b"}\n')
    (tmp_path / "w.toml").write_text('[sources.t]\nkind = "trace"\npath = "t.jsonl"\narrivals = { kind = "at_once" }')
    assert main(["workload", "build", str(tmp_path / "w.toml"), "--out", str(trace)]) == 1
    assert "is a file that is read; allowed: another name" in capsys.readouterr().err
    assert trace.read_text() == '{"prompt": "a", "response": "b"}\n'


def test_the_ready_workload_names_the_command_for_each_text_that_is_missing(tmp_path):
    path = tmp_path / "milestone3_code" / "mixed.toml"
    path.parent.mkdir()
    path.write_text(MIXED.read_text())
    data = tmp_path / "data"
    (data / "sharegpt").mkdir(parents=True)
    missing = [
        ("download_sharegpt.py && python milestone2_code/preprocess_sharegpt.py", data / "sharegpt/multi_turn.jsonl"),
        ("bfcl-eval==2026.3.23", data / "bfcl_eval-2026.3.23-py3-none-any.whl"),
        ("vllm==0.32.0 && tar -xzf data/vllm-0.32.0.tar.gz -C data", data / "vllm-0.32.0" / "docs" / "a.md"),
    ]
    for command, file in missing:
        with pytest.raises(ConfigError) as caught:
            read_workload(path)
        assert command in str(caught.value)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    names = [part.name for part in read_workload(path).parts]
    assert names == ["chat", "agents", "documents", "fewshot", "oneoff"]
