"""The two ShareGPT traces: same conversations, exact texts, lengths as vLLM has them."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from vllm_sim.trace.files import iter_records
from vllm_sim.trace.tokens import load_tokenised
from vllm_sim.workloads import sharegpt, sharegpt_download
from vllm_sim.workloads.sharegpt import ChatChoice, preprocess

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "exported_models" / "Llama-3.2-1B-Instruct"
TEXTS = ["\n\nTwo lines\n", "ünï <|eot_id|> 😀", "  blanks  ", "plain text, and some more of it", "x" * 40]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def dump(tmp_path_factory) -> Path:
    """40 conversations of 1 to 5 exchanges."""
    path = tmp_path_factory.mktemp("dump") / "dump.json"
    entries = []
    for i in range(40):
        turns = []
        for turn in range(i % 5 + 1):
            turns.append({"from": "human", "value": f"question {i} {turn} {TEXTS[(i + turn) % 5]}"})
            turns.append({"from": "gpt", "value": f"{TEXTS[(i * 3 + turn) % 5]} answer {i} {turn}"})
        entries.append({"id": f"c{i}_0", "conversations": turns})
    path.write_text(json.dumps(entries))
    return path


def rows(path: Path):
    return [record for _, record in iter_records(path)]


def test_both_traces_have_the_same_conversations_and_the_recorded_texts(dump, tmp_path):
    preprocess(dump, MODEL, tmp_path, ChatChoice(conversations=12, seed=3, active_sessions=4))
    single, multi = rows(tmp_path / sharegpt.SINGLE_TURN), rows(tmp_path / sharegpt.MULTI_TURN)
    assert len(single) == 12
    assert [r.session_id for r in single] == list(dict.fromkeys(r.session_id for r in multi))
    recorded = {e["id"][:-2]: [m["value"] for m in e["conversations"]] for e in json.loads(dump.read_text())}
    for record in multi:
        sent = [m["content"] for m in record.messages] + [record.response]
        assert sent == recorded[record.session_id][: 2 * record.turn + 2]
    for session in {r.session_id for r in multi}:
        turns = [r.turn for r in multi if r.session_id == session]
        assert turns == list(range(len(recorded[session]) // 2))


def test_the_choice_is_seeded_and_a_smaller_one_is_a_part_of_it(dump, tmp_path):
    def chosen(count: int, seed: int) -> set:
        out = tmp_path / f"{count}-{seed}"
        preprocess(dump, MODEL, out, ChatChoice(conversations=count, seed=seed))
        return {r.session_id for r in rows(out / sharegpt.SINGLE_TURN)}

    assert chosen(5, 0) < chosen(15, 0)
    assert chosen(15, 0) != chosen(15, 1)
    preprocess(dump, MODEL, tmp_path / "again", ChatChoice(conversations=15, seed=0))
    for name in (sharegpt.SINGLE_TURN, sharegpt.MULTI_TURN, sharegpt.REPORT):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "15-0" / name).read_bytes()


def test_lengths_are_those_of_the_tokens_and_within_the_limit(dump, tmp_path):
    limit = 150
    result = preprocess(
        dump, MODEL, tmp_path, ChatChoice(conversations=40, max_tokens=limit, system_prompt="Be brief.")
    )
    trace = load_tokenised(tmp_path / sharegpt.MULTI_TURN, MODEL)
    lengths = np.diff(trace.prompt_offsets) + np.diff(trace.response_offsets)
    assert lengths.max() <= limit
    vocabulary = sharegpt.Vocabulary(MODEL)
    for row, record in enumerate(rows(tmp_path / sharegpt.MULTI_TURN)):
        messages = [*record.messages, {"role": "assistant", "content": record.response}]
        assert list(sharegpt.request_tokens(messages, vocabulary))[-1] == lengths[row]
        assert messages[0] == {"role": "system", "content": "Be brief."}
    assert any("longer than 150 tokens" in reason for reason in result["dropped"])


def test_turn_limits(dump, tmp_path):
    preprocess(dump, MODEL, tmp_path, ChatChoice(conversations=40, min_turns=3, max_turns=4))
    turns = [r.turn for r in rows(tmp_path / sharegpt.MULTI_TURN)]
    assert max(turns) == 3
    assert turns.count(0) == turns.count(2) == 24


def test_active_sessions_take_turns(dump, tmp_path):
    for active in (1, 3):
        preprocess(dump, MODEL, tmp_path, ChatChoice(conversations=10, active_sessions=active))
        sessions = [r.session_id for r in rows(tmp_path / sharegpt.MULTI_TURN)]
        open_at = [
            {s for s in sessions if sessions.index(s) <= i <= len(sessions) - 1 - sessions[::-1].index(s)}
            for i in range(len(sessions))
        ]
        assert max(map(len, open_at)) == active


def test_a_choice_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="conversations is 0; allowed: 1 or more"):
        ChatChoice(conversations=0)


def make_wheel(path: Path, data: bytes, stated: bytes) -> Path:
    digest = base64.urlsafe_b64encode(hashlib.sha256(stated).digest()).rstrip(b"=").decode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(sharegpt_download.MEMBER, data)
        archive.writestr("x.dist-info/RECORD", f"{sharegpt_download.MEMBER},sha256={digest},{len(data)}\n")
    return path


def test_the_dump_in_a_wheel_is_checked_against_its_list(tmp_path):
    wheel = make_wheel(tmp_path / "good.whl", b"[1", b"[1")
    about = sharegpt_download.unpack_wheel(wheel, tmp_path)
    assert (tmp_path / sharegpt_download.FILE).read_bytes() == b"[1"
    assert about == {"bytes": 2, "sha256": hashlib.sha256(b"[1").hexdigest(), "whole": False}
    with pytest.raises(ValueError, match=r"allowed: .*, as RECORD has it"):
        sharegpt_download.unpack_wheel(make_wheel(tmp_path / "bad.whl", b"[2", b"[1"), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [sharegpt_download.FILE, "bad.whl", "good.whl"]


def test_a_dump_that_is_there_is_left_alone_and_a_broken_one_is_fetched_again(tmp_path, monkeypatch):
    fetched = []

    def fetch(folder: Path) -> dict:
        fetched.append(folder)
        (folder / sharegpt_download.FILE).write_text("[")
        return {"source": "pypi", "bytes": 1, "sha256": hashlib.sha256(b"[").hexdigest(), "whole": False}

    def refuse(folder: Path) -> dict:
        raise ValueError("no network")

    monkeypatch.setattr(sharegpt_download, "_from_pypi", fetch)
    monkeypatch.setattr(sharegpt_download, "_from_hub", refuse)
    said: list[str] = []
    for _ in range(2):
        sharegpt_download.download(tmp_path, say=said.append)
    assert len(fetched) == 1
    assert "the hub was not reached (no network)" in said[0]
    assert "there already, from pypi" in said[-1]
    (tmp_path / sharegpt_download.FILE).write_text("x")
    sharegpt_download.download(tmp_path, say=said.append)
    assert len(fetched) == 2
    with pytest.raises(ValueError, match="no network"):
        sharegpt_download.download(tmp_path, "hub", said.append)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "milestone2_code"])
def test_the_scripts_run_from_the_root_and_from_their_folder(folder, dump, tmp_path):
    scripts = Path(os.path.relpath(ROOT / "milestone2_code", folder))

    def run(script: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(scripts / script), *map(str, arguments)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    assert "example" in run("download_sharegpt.py", "--help").stdout
    done = run("preprocess_sharegpt.py", "--input", dump, "--out", tmp_path, "--conversations", 3)
    assert done.returncode == 0, done.stderr
    assert "3 conversations" in done.stdout
    missing = run("preprocess_sharegpt.py", "--input", tmp_path / "none.json")
    assert missing.returncode == 1
    assert "first run milestone2_code/download_sharegpt.py" in missing.stderr
