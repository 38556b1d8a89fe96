"""A trace that cannot be used stops the start, with file, line and reason."""

import re
from pathlib import Path

import pytest
from vllm.engine.arg_utils import EngineArgs

from tests.engine.conftest import MODEL, Start
from vllm_sim.engine.plugin import TRACE_VARIABLE

GOOD = b'{"prompt": "hehe", "response": "hahaha!"}\n'


def refusal(path: Path | str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a start over this trace says."""
    monkeypatch.setenv(TRACE_VARIABLE, str(path))
    with pytest.raises(ValueError, match=re.escape(Path(path).name)) as error:
        EngineArgs(model=str(MODEL), max_model_len=1024).create_engine_config()
    return str(error.value)


@pytest.mark.parametrize(
    ("trace", "line", "reason"),
    [
        (GOOD + b"hehe -> hahaha!\n", 2, "not JSON"),
        (GOOD + b'{"prompt": "hehe", "respo', 2, "not JSON"),
        (GOOD + GOOD[:-3], 2, "not JSON"),
        (GOOD + b'["hehe", "hahaha!"]\n', 2, "a record is a JSON object"),
        (GOOD + b'{"prompt": "hehe"}\n', 2, "one response field .*, this one has none"),
        (b'{"response": "hehe"}\n', 1, "one prompt field .*, this one has none"),
        (b'{"prompt": "a", "prompt_token_ids": [1], "response": "b"}\n', 1, "has prompt and prompt_token_ids"),
        (GOOD * 3 + b'{"prompt": 7, "response": "b"}\n', 4, "prompt is 7; allowed: a text"),
        (b"\n\n" + b'{"prompt": "a", "response": ["b"]}\n', 3, r'response is \["b"\]; allowed: a text'),
        (b'{"prompt": "a", "response_token_ids": [-1]}\n', 1, r"response_token_ids is \[-1\] \(\[0\] is -1\); allowed"),
        (b'{"prompt": "a", "response_token_ids": [5, 128009, 5]}\n', 1, "goes on after end token 128009 at place 1"),
        (b'{"messages": "a", "response": "b"}\n', 1, 'messages is "a"; allowed'),
        (b'{"messages": [{"role": "user", "content": 7}], "response": "b"}\n', 1, "messages: content is int"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}], "response": "b"}\n',
            1,
            "a part of type 'image_url'",
        ),
        (b'{"prompt": "half \\ud83d", "response": "b"}\n', 1, "half a character"),
        (GOOD + b'{"prompt": "a", "response": "half \\ude00"}\n', 2, "half a character"),
        (b'{"messages": [{"role": "user", "content": "\\ud83d"}], "response": "b"}\n', 1, "half a character"),
        (GOOD + b'{"prompt": "\xff", "response": "b"}\n', 2, "not UTF-8"),
        (b'{"hash_ids": [1, 2, 3], "input_length": 10, "output_length": 1}\n', 1, "3 hash_ids do not fit"),
        (b'{"hash_ids": [1], "output_length": 1}\n', 1, "hash_ids needs input_length"),
    ],
)
def test_a_bad_line_stops_the_start_with_file_line_and_reason(
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trace: bytes,
    line: int,
    reason: str,
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(trace)
    assert re.search(rf"{re.escape(str(path))}, line {line}: .*{reason}", refusal(path, monkeypatch))


@pytest.mark.parametrize("trace", [b"", b"\n \n"])
def test_an_empty_trace_stops_the_start(
    environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trace: bytes
) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(trace)
    assert re.search(rf"{re.escape(str(path))}: .*(empty|no record)", refusal(path, monkeypatch))


def test_a_missing_trace_stops_the_start(
    environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{tmp_path}/none.jsonl: no such file" in refusal(tmp_path / "none.jsonl", monkeypatch)


def test_a_missing_trace_with_a_relative_path_names_the_folder_in_which_it_was_looked_for(
    environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"none.jsonl: no such file (looked for in {tmp_path})" in refusal("none.jsonl", monkeypatch)


def test_a_folder_is_no_trace(environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be read" in refusal(tmp_path, monkeypatch)


def test_a_bad_trace_leaves_nothing_in_the_cache_and_is_refused_again(
    environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + b"{")
    first = refusal(path, monkeypatch)
    assert refusal(path, monkeypatch) == first
    assert list((tmp_path / "cache" / "vllm-sim" / "tokens").iterdir()) == []


def test_a_last_line_without_a_line_end_is_a_whole_record(start: Start) -> None:
    llm = start(GOOD + GOOD.replace(b"hehe", b"other").rstrip())
    assert len(llm.llm_engine.model_executor._answers.trace) == 2
