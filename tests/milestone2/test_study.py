"""Study one on chats that are made here: where hits come from, orders of arrival, and the chain of scripts."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milestone2_code.study.reuse import Uses, find_uses
from milestone2_code.study.session_end_oracle import with_oracle
from milestone2_code.study.steady import counted, steady
from milestone2_code.study.workload import Pattern, load_chats
from tests.commands import script
from vllm_sim.eviction.chains import Requests, link, reorder
from vllm_sim.replay.breakdown import Breakdown
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.outcome import Outcome, Schedule, labels_of
from vllm_sim.replay.requests import cache_requests
from vllm_sim.replay.run import Linked, serve
from vllm_sim.sweep.bootstrap import in_order, quantiles, rate_intervals, share_of_top, time_intervals
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record

ROOT = Path(__file__).parents[2]
WORDS = ("one", "two", "three", "red", "green", "blue", "up", "down")
MODEL = str(ROOT / "exported_models" / "Llama-3.2-1B-Instruct")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """30 chats of 1 to 4 turns, the first turns alone and all."""
    folder = tmp_path_factory.mktemp("chats")
    draw = random.Random(5)
    records = []
    for chat in range(30):
        messages: list[dict] = []
        for turn in range(chat % 4 + 1):
            text = " ".join(
                draw.choice(["one", "two", "three", "red", "green", "blue", "up", "down"]) for _ in range(40)
            )
            messages.append({"role": "user", "content": f"{chat} {text}"})
            answer = f"{text} {turn}"
            records.append(Record(messages=[*messages], response=answer, session_id=f"c{chat}", turn=turn))
            messages.append({"role": "assistant", "content": answer})
    write_records(folder / "single_turn.jsonl", [record for record in records if record.turn == 0])
    write_records(folder / "multi_turn.jsonl", records)
    return folder


def test_reordered_requests_have_the_blocks_of_reordered_rows(data):
    chats = load_chats(data / "multi_turn.jsonl", MODEL, "multi", False)
    requests = cache_requests(chats.trace, chats.records, 16)
    order = np.random.default_rng(1).permutation(len(chats.records))
    moved = reorder(requests, order)
    for place, row in enumerate(order):
        ids = requests.ids[requests.begins[row] : requests.begins[row + 1]]
        assert (moved.ids[moved.begins[place] : moved.begins[place + 1]] == ids).all()
        assert moved.prompt_tokens[place] == requests.prompt_tokens[row]


def test_hits_are_told_apart_by_where_they_come_from():
    # Blocks of 4: the first is the system prompt; session 0 comes back to [1, 2, 3]; session 1 finds [1, 2] of it.
    rows = [[1, 2, 3], [1, 2, 3, 4], [1, 2, 9]]
    lengths = np.array([len(row) for row in rows])
    zeros = np.zeros(3, np.int64)
    begins = np.concatenate([[0], np.cumsum(lengths)])
    requests = Requests(np.concatenate(rows), begins, lengths * 4 + 1, zeros + 1, zeros, zeros)
    found = Uses(*find_uses(link(requests, 4), np.array([0, 0, 1]), 1))
    assert list(found.hits) == [0, 3, 2]
    assert list(np.bincount(found.source)) == [2, 2, 1]
    assert list(found.after - found.before) == [1, 1, 1, 1, 1]
    assert sorted(found.owner) == [0, 0, 0, 0, 1]


def run_of(rows: list[tuple[int, int, int]], **more: Any) -> Outcome:
    """A run of requests (session, hit tokens, turn) with prompts of 16 tokens and blocks of 8."""
    sessions, hit, turns = zip(*rows, strict=True)
    records = [Record(prompt="a", response="b", session_id=s, turn=t) for s, t in zip(sessions, turns, strict=True)]
    zeros = np.zeros(len(rows), np.int64)
    parts = Breakdown(np.array(hit), zeros, 16 - np.array(hit), zeros, zeros, zeros)
    values = {
        "records": records,
        "labels": labels_of(records),
        "block_size": 8,
        "prompt_tokens": zeros + 16,
        "output_tokens": zeros + 1,
        "rejected": zeros > 0,
        "parts": parts,
        "evicted_by": zeros - 1,
        "blocks_allocated": zeros + 2,
        "totals": None,
    }
    return Outcome(**values | more)


def test_an_interval_holds_the_rate_and_is_a_point_where_sessions_are_alike():
    rows = [(i, 8, 0) for i in range(50)]
    whole, first, second, *_ = rate_intervals(run_of(rows))
    assert whole == first == {f"{rate}_hit_rate_ci95": [0.5, 0.5] for rate in ("token", "request", "block")}
    assert second["token_hit_rate_ci95"] == [0.0, 0.0]
    rows[0] = (0, 0, 0)
    low, high = rate_intervals(run_of(rows))[0]["token_hit_rate_ci95"]
    assert low < 0.49 < high


def test_a_session_is_drawn_with_all_its_rows():
    # One session has all hits in ten turns: the rate depends on whether it is drawn, and so do those of its turns.
    rows = [(0, 16, turn) for turn in range(10)] + [(i, 0, 0) for i in range(1, 20)]
    whole, _, second, *_ = rate_intervals(run_of(rows))
    assert whole["token_hit_rate_ci95"][0] == 0.0
    assert whole["token_hit_rate_ci95"][1] > 0.5
    assert second["token_hit_rate_ci95"] == [0.0, 1.0]
    assert list(in_order(np.array([7, 7, 3, 9, 3]))) == [0, 0, 1, 2, 1]


def test_quantiles_are_values_that_occur_and_those_of_alike_sessions_have_no_spread():
    values, of = np.array([5.0, 1.0, 3.0, 3.0]), np.array([0, 1, 0, 1])
    middle, pairs = quantiles(values, of, 2, (0.25, 0.5, 0.99))
    assert middle == {"0.25": 1.0, "0.50": 3.0, "0.99": 5.0}
    assert pairs["0.99"] == [3.0, 5.0]
    middle, pairs = quantiles(np.repeat([1.0, 2.0, 4.0], 30), np.tile(np.arange(30), 3), 30, (0.5,))
    assert (middle, pairs) == ({"0.50": 2.0}, {"0.50": [2.0, 2.0]})


def test_rejected_requests_have_no_times_and_change_none():
    def run(sessions: list[int], rejected: list[bool]) -> Outcome:
        count, is_rejected = len(sessions), np.array(rejected)
        zeros = np.zeros(count, np.int64)
        schedule = Schedule(
            preemptions=zeros,
            readmission_hit_tokens=zeros,
            arrival_ms=np.zeros(count),
            first_scheduled_ms=np.where(is_rejected, np.nan, 1.0),
            first_token_ms=np.where(is_rejected, np.nan, 5.0),
            end_ms=np.where(is_rejected, np.nan, 14.0),
        )
        outputs = np.where(is_rejected, 0, 10)
        rows = [(session, 0, 0) for session in sessions]
        return run_of(rows, schedule=schedule, rejected=is_rejected, output_tokens=outputs)

    def intervals(sessions: list[int], rejected: list[bool]) -> dict:
        return time_intervals(run(sessions, rejected), np.array(sessions))

    found = intervals([*range(5)], [False] * 5)
    assert found["ttft_ms_p50_ci95"] == [5.0, 5.0]
    assert intervals([9, *range(5)], [True] + [False] * 5) == found
    assert intervals([9], [True]) == {}


def test_the_top_block_has_its_share():
    uses = np.array([1, 90, *[0] * 96, 5, 4])
    share, (low, high) = share_of_top(uses, np.arange(100), 100, 0.01)
    assert share == 0.9
    assert low < 0.9 <= high


def test_knowing_which_sessions_are_over_lies_between_lru_and_the_optimum(data):
    chats = load_chats(data / "multi_turn.jsonl", MODEL, "multi", False)
    served = steady(chats, 16, Pattern())
    records = [chats.records[row] for row in served.rows]
    hits = {}
    for policy in ("lru", "belady"):
        config = RunConfig(model=MODEL, backend="fast", capacity_blocks=150, policy=policy)
        linked = Linked(served.requests, served.chains)
        outcome = serve(linked, records, labels_of(records), config)
        hits[policy] = outcome.parts.hit.sum()
    parts = with_oracle(outcome, served.chains, 150).parts
    assert hits["lru"] < parts.hit.sum() < hits["belady"]
    total = parts.hit + parts.cold + parts.evicted + parts.partial + parts.last
    assert (total == outcome.prompt_tokens).all()


def test_the_system_prompt_is_where_the_template_puts_it(data):
    from milestone2_code.study.workload import SYSTEM_PROMPT
    from vllm_sim.trace.vocabulary import Vocabulary

    chats = load_chats(data / "multi_turn.jsonl", MODEL, "multi", True)
    vocabulary = Vocabulary(MODEL)
    system = {"role": "system", "content": SYSTEM_PROMPT}
    for row in (0, 7, 30):
        text = vocabulary.render_chat([system, *chats.records[row].messages], None, None)
        assert list(chats.trace.prompt(row)) == list(vocabulary.encode_chats([text])[0])
    assert chats.system_tokens > 200


def test_a_killed_run_goes_on_and_quick_rows_are_marked(data, tmp_path):
    def run(name: str, *words: str) -> str:
        done = script(f"milestone2_code/{name}", *words, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stderr

    compare = ("--data", str(data), "--out", str(tmp_path), "--quick", "--part", "cache")
    run("compare_multi_vs_single_turn.py", *compare, "--jobs", "1")
    path = tmp_path / "chat.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    old = json.dumps(json.loads(lines[3]) | {"code": "of yesterday", "hit_tokens": -1}) + "\n"
    left = [*lines[:3], old, *lines[4:]]
    left.sort(key=lambda line: '"blockpool"' not in line)  # none of these is lost: each process would import vLLM
    path.write_text("".join(left[:-2]) + left[-2][:30])
    said = run("compare_multi_vs_single_turn.py", *compare, "--jobs", "2")
    assert "1 rows of another plan, trace or code are dropped" in said
    assert f"{len(lines) - 3} of {len(lines)} runs are there already" in said
    assert path.read_text() == whole
    rows = [json.loads(line) for line in lines]
    assert all(row["quick"] for row in rows)
    agree = [row for row in rows if row["experiment"] == "agree"]
    assert {row["backend"] for row in agree} == {"fast", "blockpool"}
    for workload in ("single", "multi"):
        assert len({row["hits_sha256"] for row in agree if row["workload"] == workload}) == 1
    for name in ("visualize_task2.py", "visualize_task2_advance.py"):
        run(name, "--results", str(tmp_path), "--out", str(tmp_path / "figures"))
    assert len(list((tmp_path / "figures").glob("chat_*.png"))) == 10


def test_what_counts_is_the_same_as_a_run_of_it_alone():
    rows = [(0, 16, 0), (1, 8, 0), (0, 0, 1), (2, 0, 0), (2, 16, 1)]
    found = counted(run_of(rows), 2)
    assert rate_intervals(found) == rate_intervals(run_of(rows[2:]))
    assert found.labels.session.values == [0, 2]
    assert list(found.blocks_allocated) == [2, 2, 2]
