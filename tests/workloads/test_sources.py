"""The sources of a workload: what their requests share, and that they are whole."""

import json
import zipfile
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.workloads.making import MODEL, by_session, made
from vllm_sim.trace.formats.conversations import answer_text
from vllm_sim.trace.vocabulary import Vocabulary
from vllm_sim.workloads.prose import prose
from vllm_sim.workloads.session import Seeds, popular
from vllm_sim.workloads.sources.bfcl import Bfcl
from vllm_sim.workloads.sources.documents import sections
from vllm_sim.workloads.sources.fewshot import TASKS

DICT = {"type": "dict", "properties": {}, "required": []}
MOVE = {
    "name": "mv",
    "description": "Moves a file.",
    "parameters": {
        "type": "dict",
        "properties": {"source": {"type": "string"}, "weight": {"type": "float"}, "all": {"type": "boolean"}},
        "required": ["source"],
    },
    "response": {
        "type": "dict",
        "properties": {
            "moved": {"type": "array", "items": {"type": "string"}},
            "count": {"type": "integer"},
            "seconds": {"type": "float"},
            "ok": {"type": "boolean"},
        },
    },
}
LIST = {"name": "ls", "description": "Lists files.", "parameters": DICT, "response": DICT}
ADD = {"name": "add", "description": "Adds.", "parameters": DICT}
TASK = {"involved_classes": ["MathAPI", "GorillaFileSystem"], "excluded_function": ["ls"]}
DOCUMENT = "# Title {0}\n\nIntroduction {0}.\n\n```\n# no heading\n```\n\n## Use {0}\n\n{1}"


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as bfcl-eval's wheel has it, with three tasks."""
    data = tmp_path / "package" / "bfcl_eval" / "data"
    files = {
        "BFCL_v4_multi_turn_base.json": [
            {"id": "t0", "question": [user("Move a."), user("Thanks, and add.")], **TASK},
            {"id": "t1", "question": [user("Move b.")], **TASK},
            {"id": "t2", "question": [user("List.")], "involved_classes": ["GorillaFileSystem"]},
        ],
        "possible_answer/BFCL_v4_multi_turn_base.json": [
            {"id": "t0", "ground_truth": [["mv('a', all=True)", "mv(source='ü', weight=0.5)"], ["add()"]]},
            {"id": "t1", "ground_truth": [[]]},
            {"id": "t2", "ground_truth": [["ls()"]]},
        ],
        "multi_turn_func_doc/gorilla_file_system.json": [MOVE, LIST],
        "multi_turn_func_doc/math_api.json": [ADD],
    }
    for name, rows in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "package"


AGENTS = """
[sources.agents]
kind = "agents"
package = "package"
categories = ["multi_turn_base"]
arrivals = { kind = "at_once" }
think_ms = { kind = "fixed", value = 9000 }
tool_ms = { kind = "fixed", value = 30 }
"""


def test_an_agent_asks_once_a_call_and_closes_each_turn(tmp_path, package):
    session = by_session(made(tmp_path, AGENTS))["agents/t0"]
    assert [len(r.messages) for r in session] == [2, 4, 6, 8, 10]
    calls = [json.loads(session[i].response) for i in (0, 1, 3)]
    assert calls == [
        {"name": "mv", "parameters": {"source": "a", "all": True}},
        {"name": "mv", "parameters": {"source": "ü", "weight": 0.5}},
        {"name": "add", "parameters": {}},
    ]
    for earlier, later in pairwise(session):
        assert later.messages[: len(earlier.messages)] == earlier.messages
        assert answer_text(later.messages[len(earlier.messages)]) == earlier.response
    assert [r.think_time_ms for r in session] == [None, 30, 30, 9000, 30]
    result = json.loads(session[1].messages[-1]["content"])
    assert [type(value) for value in result.values()] == [list, int, float, bool]


def test_agents_with_the_same_toolboxes_share_their_prompt_to_the_users_words(tmp_path, package):
    sessions = by_session(made(tmp_path, AGENTS))
    first, second = (sessions[f"agents/{name}"][0] for name in ("t0", "t1"))
    assert first.tools == second.tools
    assert [tool["function"]["name"] for tool in first.tools] == ["mv", "add"]
    assert first.tools[0]["function"]["parameters"]["properties"]["weight"] == {"type": "number"}
    assert "response" not in first.tools[0]["function"]
    vocabulary = Vocabulary(MODEL)
    texts = [vocabulary.render_chat(r.messages, r.tools, None) for r in (first, second)]
    assert texts[0].split("Move a.")[0] == texts[1].split("Move b.")[0]


def test_a_generated_call_has_the_tokens_that_the_next_request_has_in_its_history(tmp_path, package):
    first, second = by_session(made(tmp_path, AGENTS))["agents/t0"][:2]
    vocabulary = Vocabulary(MODEL)
    before, after = (vocabulary.render_chat(r.messages, r.tools, None) for r in (first, second))
    assert after.startswith(before + first.response)


def test_the_wheel_gives_what_the_folder_gives(tmp_path, package):
    wheel = tmp_path / "bfcl.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in sorted(package.rglob("*.json")):
            archive.write(path, path.relative_to(package))
    assert made(tmp_path, AGENTS.replace('"package"', '"bfcl.whl"')) == made(tmp_path, AGENTS)


def test_a_missing_package_is_one_error_that_tells_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"workload.toml.*sources.agents.*bfcl-eval.*pip install --no-deps"):
        made(tmp_path, AGENTS.replace('package = "package"\n', ""))
    with pytest.raises(ValueError, match=r"package is .gone.; allowed: the wheel.*pip install --no-deps"):
        made(tmp_path, AGENTS.replace('package = "package"', 'package = "gone"'))


def test_a_broken_task_is_an_error_that_names_it(package):
    file = package / "bfcl_eval/data/possible_answer/BFCL_v4_multi_turn_base.json"
    file.write_text(file.read_text().replace("add()", "add(1 +"))
    with pytest.raises(ValueError, match=r"BFCL_v4_multi_turn_base.json, id 't0': SyntaxError"):
        list(Bfcl(package).tasks(["multi_turn_base"]))


DOCUMENTS = """
[sources.docs]
kind = "documents"
folder = "docs"
sessions = 60
min_characters = 100
questions = { kind = "fixed", value = 3 }
answer_words = { kind = "fixed", value = 5 }
arrivals = { kind = "at_once" }
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "inner").mkdir(parents=True)
    for i in range(4):
        (folder / "inner" / f"{i}.md").write_text(DOCUMENT.format(i, "Words of the section. " * 20))
    (folder / "plain.txt").write_text("No headings here. " * 20)
    (folder / "short.md").write_text("# Short\n\ntoo short")
    (folder / "code.py").write_text("# other\n" * 100)
    return folder


def test_several_readers_ask_several_questions_of_whole_documents(tmp_path, docs):
    sessions = by_session(made(tmp_path, DOCUMENTS))
    assert len(sessions) == 60
    texts = {path.read_text().strip() for path in docs.rglob("*") if path.stem in "0123plain" and path.is_file()}
    readers: Counter = Counter()
    for session in sessions.values():
        read = {r.messages[1]["content"].split("\n\n---\n\n")[0] for r in session}
        assert len(session) == 3
        assert len(read) == 1
        readers.update(read)
        for record in session:
            assert [m["role"] for m in record.messages] == ["system", "user"]
            assert record.response in next(iter(read))
            assert len(record.response.split(" ")) <= 5
    assert set(readers) == texts
    assert max(readers.values()) > 1.5 * min(readers.values())


def test_with_history_the_questions_to_a_document_are_one_chat(tmp_path, docs):
    for session in by_session(made(tmp_path, f"{DOCUMENTS}history = true")).values():
        assert [len(r.messages) for r in session] == [2, 4, 6]
        for earlier, later in pairwise(session):
            assert later.messages[:-2] == earlier.messages
            assert later.messages[-2]["content"] == earlier.response
            assert "---" not in later.messages[-1]["content"]


def test_headings_in_code_are_none():
    assert list(sections("# A\n```\n# code\n```\n## Empty\n## B ##\ntext\n")) == [
        ("A", "```\n# code\n```"),
        ("B", "text"),
    ]


def test_a_folder_without_a_fitting_document_is_an_error(tmp_path, docs):
    with pytest.raises(ValueError, match=r"none of its 6 documents .* has 100000 to 200000 characters"):
        made(tmp_path, DOCUMENTS.replace("= 100", "= 100000\nmax_characters = 200000"))


FEWSHOT = """
[sources.shots]
kind = "fewshot"
sessions = 30
sets = 5
examples = 6
questions = { kind = "uniform", low = 2, high = 4 }
arrivals = { kind = "poisson", sessions_per_s = 1 }
"""


def test_a_batch_arrives_together_and_shares_its_examples(tmp_path):
    batches: dict = {}
    for record in made(tmp_path, FEWSHOT):
        batches.setdefault(record.id.rsplit("-", 1)[0], []).append(record)
    assert len(batches) == 30
    heads = set()
    for batch in batches.values():
        assert 2 <= len(batch) <= 4
        assert len({r.timestamp for r in batch}) == 1
        assert {(r.session_id, r.turn, r.think_time_ms) for r in batch} == {(None, None, None)}
        shared = {r.prompt[: r.prompt.rindex("Input: ")] for r in batch}
        assert len(shared) == 1
        assert next(iter(shared)).count("Output: ") == 6
        heads |= shared
    assert 3 <= len(heads) <= 5


def test_answers_of_the_few_shot_tasks_are_right():
    arithmetic, dates, sentiment, sorting = TASKS
    generator = np.random.default_rng(0)
    for _ in range(50):
        question, answer = arithmetic.example(generator)
        boxes, each, lost = (int(word) for word in question.replace(".", "").split() if word.isdigit())
        assert answer.endswith(f"= {boxes * (each - lost)}.")
        question, answer = dates.example(generator)
        assert json.loads(answer)["name"] in question
        question, answer = sentiment.example(generator)
        assert answer in ("positive", "negative")
        question, answer = sorting.example(generator)
        assert answer.split(", ") == sorted(question.split(", "))


def test_one_off_calls_share_no_block(tmp_path):
    text = '[sources.{}]\nkind = "oneoff"\nsessions = 300\narrivals = {{ kind = "at_once" }}\n'
    prompts = [r.prompt for r in made(tmp_path, text.format("a") + text.format("b"))]
    starts = [tuple(ids[:8]) for ids in Vocabulary(MODEL).encode_prompts(prompts)]
    assert len(set(starts)) == 600


def test_prose_has_the_words_asked_for():
    generator = np.random.default_rng(1)
    for words in (1, 2, 11, 12, 13, 500):
        assert len(prose(generator, words).split(" ")) == words


def test_popularity_follows_zipf():
    generator = Seeds(0, "x").generator("y")
    for exponent in (0.0, 1.0, 2.0):
        drawn = np.bincount([popular(generator, 4, exponent) for _ in range(4000)], minlength=4) / 4000
        weights = np.arange(1, 5) ** -exponent
        assert drawn == pytest.approx(weights / weights.sum(), abs=0.04)
