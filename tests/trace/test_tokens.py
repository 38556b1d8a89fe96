"""The tokens of a trace, and the cache that keeps them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllm_sim.trace import tokens
from vllm_sim.trace.record import TraceError
from vllm_sim.trace.tokens import TokenisedTrace, load_tokenised, prompt_digest
from vllm_sim.trace.vocabulary import Vocabulary

MODEL = Path(__file__).parents[2] / "exported_models" / "Llama-3.2-1B-Instruct"
EOT = 128009
ROWS: list[dict[str, Any]] = [
    {"prompt": "hehe", "response": "hahaha!"},
    {"prompt_token_ids": [128000, 383, 383], "response_token_ids": [71, 74635, 0]},
    {"prompt": "cut", "response": "hahaha!", "finish_reason": "length"},
    {"messages": [{"role": "user", "content": "hehe"}], "response": "<|eot_id|>"},
    {"hash_ids": [7, 8], "input_length": 600, "output_length": 5},
    {"hash_ids": [7], "input_length": 600, "output_length": 5, "finish_reason": "length"},
]
IDS: list[dict[str, Any]] = [
    {"hash_ids": [0, 5, 2], "input_length": 40, "hash_block_size": 16, "output_length": 3},
    {"hash_ids": [0, 5, 3], "input_length": 48, "hash_block_size": 16, "output_length": 1, "finish_reason": "length"},
    {"prompt_token_ids": [7, 8, 9], "output_length": 2},
    {"prompt_token_ids": [7, 8, 9], "response_token_ids": [4, 4, EOT]},
]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(MODEL)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vllm-sim" / "tokens"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def contents(trace: TokenisedTrace) -> list[tuple[list[int], list[int], bool, int]]:
    return [
        (trace.prompt(row).tolist(), trace.response(row).tolist(), bool(trace.cut[row]), int(trace.lines[row]))
        for row in range(len(trace))
    ]


def test_rows_have_their_tokens_their_ends_and_their_lines(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text("\n" + "\n\n".join(map(json.dumps, ROWS)))
    rows = contents(load_tokenised(path, vocabulary))
    hehe, hahaha = [128000, 383, 383], [71, 74635, 0]
    assert rows[0] == (hehe, [*hahaha, EOT], False, 2)
    assert rows[1] == (hehe, [*hahaha, EOT], False, 4)
    assert rows[2][1:] == (hahaha, True, 6)
    assert rows[3][0][:3] == [128000, 128006, 882]
    assert rows[3][1][-1] == EOT
    assert EOT not in rows[3][1][:-1]  # text like a special token stays text
    assert [(len(prompt), len(response), response[-1] == EOT, cut) for prompt, response, cut, _ in rows[4:]] == [
        (600, 5, True, False),
        (600, 5, False, True),
    ]
    assert rows[4][0][:512] == rows[5][0][:512]
    assert rows[4][0][512] != rows[5][0][512]


def test_equal_prompts_have_equal_digests_and_others_do_not(tmp_path: Path, vocabulary: Vocabulary) -> None:
    trace = load_tokenised(write(tmp_path / "trace.jsonl", ROWS), vocabulary)
    digests = trace.digests.tolist()
    assert digests[0] == digests[1] == prompt_digest(np.array([128000, 383, 383], dtype=np.int32))
    assert len(set(digests)) == len(ROWS) - 1


def test_a_second_load_tokenises_nothing_and_gives_the_same_arrays(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    path = write(tmp_path / "trace.jsonl", ROWS)
    first = load_tokenised(path, vocabulary)

    def no_work(*arguments: object) -> None:
        raise AssertionError("the trace is read again")

    monkeypatch.setattr(tokens, "_build", no_work)
    second = load_tokenised(path, vocabulary)
    assert second.folder == first.folder
    assert contents(second) == contents(first)
    assert second.sha256 == first.sha256
    assert [folder.name for folder in cache.iterdir()] == [first.folder.name]


def test_the_name_and_place_of_a_trace_do_not_matter(tmp_path: Path, vocabulary: Vocabulary) -> None:
    one = load_tokenised(write(tmp_path / "one.jsonl", ROWS), vocabulary)
    assert load_tokenised(write(tmp_path / "two.jsonl", ROWS), vocabulary).folder == one.folder


def test_a_changed_trace_gets_a_folder_of_its_own(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = write(tmp_path / "trace.jsonl", ROWS)
    first = load_tokenised(path, vocabulary)
    second = load_tokenised(write(path, [*ROWS[:-1], {"prompt": "new", "response": "new"}]), vocabulary)
    assert second.folder != first.folder
    assert contents(second)[:-1] == contents(first)[:-1]
    assert contents(second)[-1][0] == vocabulary.encode_prompts(["new"])[0]


def test_a_changed_chat_template_gives_other_tokens(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = write(tmp_path / "trace.jsonl", ROWS)
    first = load_tokenised(path, vocabulary)
    model = tmp_path / "model"
    model.mkdir()
    for file in MODEL.iterdir():
        (model / file.name).symlink_to(file)
    (model / "chat_template.jinja").unlink()
    (model / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    second = load_tokenised(path, model)
    assert second.folder != first.folder
    assert contents(second)[3][0] == [128000, 383, 383]


def test_a_trace_of_several_chunks_equals_one_of_one_chunk(
    tmp_path: Path, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "trace.jsonl", ROWS)
    whole = load_tokenised(path, vocabulary)
    monkeypatch.setattr(tokens, "_CHUNK_RECORDS", 2)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    chunked = load_tokenised(path, vocabulary)
    assert chunked.folder != whole.folder
    assert contents(chunked) == contents(whole)


def test_two_processes_that_build_at_once_both_get_the_tokens(
    tmp_path: Path, vocabulary: Vocabulary, cache: Path
) -> None:
    rows = [{"prompt": f"prompt {i} " + "word " * 50, "response": f"answer {i} " + "word " * 50} for i in range(6000)]
    path = write(tmp_path / "trace.jsonl", rows)
    code = (
        "import sys; from pathlib import Path; from vllm_sim.trace.tokens import load_tokenised as load\n"
        "trace = load(Path(sys.argv[1]), sys.argv[2]); print(trace.folder, trace.response_tokens.sum())"
    )
    command = [sys.executable, "-c", code, str(path), str(MODEL)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    trace = load_tokenised(path, vocabulary)
    assert outputs == [f"{trace.folder} {trace.response_tokens.sum()}\n"] * 2
    assert list(cache.iterdir()) == [trace.folder]


def test_a_build_whose_folder_is_there_by_then_is_thrown_away(
    tmp_path: Path, vocabulary: Vocabulary, cache: Path
) -> None:
    path = write(tmp_path / "trace.jsonl", ROWS)
    folder = load_tokenised(path, vocabulary).folder
    before = {file.name: file.stat().st_ino for file in folder.iterdir()}
    tokens._build(path, vocabulary, folder)
    assert {file.name: file.stat().st_ino for file in folder.iterdir()} == before
    assert list(cache.iterdir()) == [folder]


def test_a_bad_line_is_named_and_leaves_no_folder(tmp_path: Path, vocabulary: Vocabulary, cache: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(ROWS[0]) + "\n{\n")
    with pytest.raises(TraceError, match=r"trace\.jsonl, line 2: not JSON"):
        load_tokenised(path, vocabulary)
    assert list(cache.iterdir()) == []


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"line \d+: .* holds no tokenizer\.json; allowed: a folder that has one"):
        load_tokenised(write(tmp_path / "trace.jsonl", ROWS), tmp_path)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "output_length": 1},
        {"prompt_token_ids": [1], "response": "a"},
        {"messages": [{"role": "user", "content": "a"}], "output_length": 1},
    ],
)
def test_a_text_without_a_model_is_an_error_of_its_line(tmp_path: Path, row: dict[str, Any]) -> None:
    path = write(tmp_path / "trace.jsonl", [IDS[0], row])
    with pytest.raises(TraceError, match=r"trace\.jsonl, line 2: a text needs a tokenizer; allowed: --model FOLDER"):
        load_tokenised(path, None)


def with_config(folder: Path, **values: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def test_ids_have_as_many_tokens_and_share_as_much_without_a_model_or_a_tokenizer(
    tmp_path: Path, vocabulary: Vocabulary
) -> None:
    path = write(tmp_path / "trace.jsonl", IDS)
    config = with_config(tmp_path / "model", vocab_size=1000, eos_token_id=[EOT, 1])
    known, none, small = (load_tokenised(path, model) for model in (vocabulary, None, config))
    for other in (none, small):
        for row in range(len(IDS)):
            assert len(other.response(row)) == len(known.response(row))
            assert len(other.prompt(row)) == len(known.prompt(row))
        assert other.prompt(0)[:32].tolist() == other.prompt(1)[:32].tolist()
        assert other.prompt(0)[32:40].tolist() != other.prompt(1)[32:40].tolist()
    assert small.prompt_tokens.max() < 1000
    assert none.response(2).min() > 2**24  # no token that a trace may give


def test_the_end_token_may_come_from_the_model_where_no_tokenizer_has_one(tmp_path: Path) -> None:
    row = {"prompt_token_ids": [7], "response_token_ids": [4]}
    path = write(tmp_path / "trace.jsonl", [row, {"prompt_token_ids": [7], "response_token_ids": []}])
    model = with_config(tmp_path / "model", eos_token_id=[11, 12])
    assert load_tokenised(path, model).response(0).tolist() == [4, 11]
    (model / "generation_config.json").write_text('{"eos_token_id": 13}')
    assert load_tokenised(path, model).response(0).tolist() == [4, 13]
    assert load_tokenised(path, None).response(0).tolist() == [4]
    assert len(load_tokenised(path, None).response(1)) == 1
    with pytest.raises(TraceError, match=r"line 1: .* names no end token"):
        load_tokenised(path, with_config(tmp_path / "other"))


def test_a_tokenizer_that_was_changed_is_read_again(tmp_path: Path) -> None:
    model = shutil.copytree(MODEL, tmp_path / "model")
    assert Vocabulary(model).encode_responses(["<|eot_id|>"]) == Vocabulary(MODEL).encode_responses(["<|eot_id|>"])
    path = model / "tokenizer.json"
    path.write_text(path.read_text().replace("<|eot_id|>", "<|renamed|>"))
    assert Vocabulary(MODEL).encode_prompts(["<|eot_id|>"]) == [[128000, EOT]]
    assert Vocabulary(model).encode_prompts(["<|renamed|>"]) == [[128000, EOT]]
