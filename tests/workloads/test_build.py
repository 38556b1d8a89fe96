"""`vllm-sim workload build`: the same bytes, arrivals of the rate and burstiness asked for, sessions in order."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.workloads.making import MODEL, by_session, made, rows
from vllm_sim.cli.main import main
from vllm_sim.trace.files import write_records
from vllm_sim.trace.record import Record
from vllm_sim.trace.tokens import load_tokenised
from vllm_sim.trace.validate import find_faults
from vllm_sim.workloads.build import build

ONEOFF = """
[sources.calls]
kind = "oneoff"
sessions = 2000
prompt_words = { kind = "fixed", value = 8 }
answer_words = { kind = "fixed", value = 4 }
"""
MIXED = """
seed = 7
sessions = 40

[sources.chat]
kind = "trace"
path = "chat.jsonl"
share = 0.25
tenant = "web"
cache_salt = "web"
start_s = 10
end_s = 60
arrivals = { kind = "gamma", sessions_per_s = 0.3, burstiness = 0.5 }
think_ms = { kind = "lognormal", median = 3000, sigma = 1.0 }

[sources.batches]
kind = "fewshot"
sessions = 3
examples = 4
questions = { kind = "uniform", low = 2, high = 5 }
arrivals = { kind = "poisson", requests_per_s = 1.0 }

[sources.calls]
kind = "oneoff"
share = 0.5
workload = "api"
output_tokens = { kind = "uniform", low = 3, high = 9 }
prompt_words = { kind = "lognormal", median = 30, sigma = 0.5 }
arrivals = { kind = "poisson", sessions_per_s = 2 }
"""


def gaps_ms(records: list[Record]) -> np.ndarray:
    return np.diff([record.timestamp for record in records], prepend=0)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Holds chat.jsonl: 20 sessions of 1 to 5 turns, interleaved, with recorded times and think times."""
    chat = [
        Record(
            messages=[{"role": "user", "content": f"question {session} {t}"} for t in range(turn + 1)],
            response=f"answer {session} {turn}",
            session_id=session,
            turn=turn,
            timestamp=1000.0 * session + 5000.5 * turn,
            think_time_ms=4000 if turn else None,
            workload="recorded-chat",
        )
        for turn in range(5)
        for session in range(20)
        if turn <= session % 5
    ]
    write_records(tmp_path / "chat.jsonl", chat)
    return tmp_path


def test_a_given_seed_takes_the_place_of_the_configuration_s(tmp_path: Path) -> None:
    own = made(tmp_path, ONEOFF + "arrivals = { kind = 'poisson', requests_per_s = 1.0 }", "own.jsonl")
    config = tmp_path / "workload.toml"
    for seed in (0, 5):
        build(config, tmp_path / "given.jsonl", seed)
        assert (rows(tmp_path / "given.jsonl") == own) == (seed == 0)
    config.write_text("seed = 5\n" + config.read_text())
    build(config, tmp_path / "own.jsonl")
    assert (tmp_path / "own.jsonl").read_bytes() == (tmp_path / "given.jsonl").read_bytes()


def test_the_same_configuration_gives_the_same_bytes_in_every_process(folder):
    made(folder, MIXED)
    code = "import sys; from vllm_sim.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "workload", "build", str(folder / "workload.toml")]
    subprocess.run([*command, "--out", str(folder / "again.jsonl")], check=True, stdout=subprocess.DEVNULL)
    assert (folder / "again.jsonl").read_bytes() == (folder / "out.jsonl").read_bytes()
    made(folder, MIXED.replace("seed = 7", "seed = 8"), "other.jsonl")
    assert (folder / "other.jsonl").read_bytes() != (folder / "out.jsonl").read_bytes()


def test_the_trace_is_sorted_validates_and_loads(folder):
    built = made(folder, MIXED)
    assert not any(find_faults(folder / "out.jsonl"))
    assert [r.timestamp for r in built] == sorted(r.timestamp for r in built)
    assert len({r.id for r in built}) == len(built)
    assert len(load_tokenised(folder / "out.jsonl", MODEL).prompt_offsets) == len(built) + 1


def test_changing_one_source_leaves_the_others_as_they_were(folder):
    def lines(text: str, *names: str) -> list[str]:
        made(folder, text)
        found = (folder / "out.jsonl").read_text().splitlines()
        return [line for line in found if json.loads(line)["id"].split("/")[0] in names]

    before = lines(MIXED, "chat", "calls")
    without = MIXED[: MIXED.index("[sources.batches]")] + MIXED[MIXED.index("[sources.calls]") :]
    assert lines(MIXED.replace("examples = 4", "examples = 5"), "chat", "calls") == before
    assert lines(without, "chat", "calls") == before
    assert lines(MIXED.replace("sessions_per_s = 2", "sessions_per_s = 9"), "chat", "batches") == lines(
        MIXED, "chat", "batches"
    )


@pytest.mark.parametrize(
    ("arrivals", "gap_ms", "variation"),
    [
        ('{ kind = "poisson", sessions_per_s = 4 }', 250, 1),
        ('{ kind = "poisson", requests_per_s = 4 }', 250, 1),
        ('{ kind = "gamma", sessions_per_s = 4, burstiness = 0.25 }', 250, 4),
        ('{ kind = "gamma", sessions_per_s = 4, burstiness = 4 }', 250, 0.25),
    ],
)
def test_gaps_have_the_mean_of_the_rate_and_the_variation_of_the_burstiness(tmp_path, arrivals, gap_ms, variation):
    gaps = gaps_ms(made(tmp_path, f"{ONEOFF}arrivals = {arrivals}"))
    # Five standard errors of the mean; the squared coefficient of variation within a quarter.
    assert abs(gaps.mean() - gap_ms) < 5 * gap_ms * (variation / len(gaps)) ** 0.5
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(variation, rel=0.25)


def test_requests_per_second_counts_the_turns_of_sessions(folder):
    text = '[sources.chat]\nkind = "trace"\npath = "chat.jsonl"\narrivals = {{ kind = "poisson", {}_per_s = {} }}'
    by_requests = made(folder, text.format("requests", 6))
    # 60 requests in 20 sessions: 6 requests a second are 2 sessions a second.
    assert by_requests == made(folder, text.format("sessions", 2))


def test_at_once_is_all_at_the_start_in_the_order_of_the_source(tmp_path):
    built = made(tmp_path, f'{ONEOFF}start_s = 2.5\narrivals = {{ kind = "at_once" }}')
    assert {r.timestamp for r in built} == {2500}
    assert [r.id for r in built] == [f"calls/{i}" for i in range(2000)]


def test_recorded_times_stay_as_they_were(folder):
    built = made(
        folder,
        '[sources.chat]\nkind = "trace"\npath = "chat.jsonl"\narrivals = { kind = "recorded" }\n'
        'think_ms = { kind = "recorded" }',
    )
    recorded = {(r.session_id, r.turn): r for r in rows(folder / "chat.jsonl")}
    assert len(built) == len(recorded)
    for record in built:
        before = recorded[int(record.session_id.removeprefix("chat/")), record.turn]
        assert record.timestamp == before.timestamp
        assert record.think_time_ms == before.think_time_ms
        assert record.messages == before.messages
        assert record.workload == "recorded-chat"


def test_recorded_turns_wait_for_their_time_and_for_the_think_time(folder):
    times = [(0.1, None), (0.2, 0.3), (0.7, 0.1)]
    recorded = [Record(prompt="a", response="b", session_id=1, timestamp=t, think_time_ms=gap) for t, gap in times]
    write_records(folder / "chat.jsonl", recorded)
    built = made(
        folder,
        '[sources.chat]\nkind = "trace"\npath = "chat.jsonl"\narrivals = { kind = "recorded" }\nstart_s = 0.7\n'
        'think_ms = { kind = "recorded" }',
    )
    first, second, third = (r.timestamp for r in built)
    assert (first, second, third) == (700 + 0.1, first + 0.3, 700 + 0.7)
    assert third >= second + built[2].think_time_ms


def test_recorded_think_time_is_taken_from_timestamps_where_there_is_none(folder):
    stripped = [
        Record(prompt="a", response="b", session_id="s", timestamp=time) for time in (500.0, 900.0, 10_000.0, 10_000.0)
    ]
    write_records(folder / "chat.jsonl", stripped)
    built = made(
        folder,
        '[sources.chat]\nkind = "trace"\npath = "chat.jsonl"\narrivals = { kind = "at_once" }\nstart_s = 1\n'
        'think_ms = { kind = "recorded" }',
    )
    assert [r.think_time_ms for r in built] == [None, 400, 9100, 0]
    assert [r.timestamp for r in built] == [1000, 1400, 10_500, 10_500]
    assert [r.turn for r in built] == [0, 1, 2, 3]


def test_turns_follow_in_order_after_the_think_time_that_is_written(folder):
    built = made(folder, MIXED.replace("end_s = 60\n", ""))
    sessions = by_session([r for r in built if r.id.startswith("chat/")])
    assert len(sessions) == 10
    thinks = []
    for session in sessions.values():
        assert [r.turn for r in session] == list(range(len(session)))
        assert session[0].think_time_ms is None
        for earlier, later in pairwise(session):
            assert later.timestamp >= earlier.timestamp + later.think_time_ms
            thinks.append(later.think_time_ms)
    assert len(set(thinks)) > len(thinks) / 2


def test_think_times_are_those_of_the_distribution(folder):
    def thinks(think: str) -> list[float]:
        text = '[sources.chat]\nkind = "trace"\npath = "many.jsonl"\narrivals = { kind = "at_once" }\n'
        built = made(folder, f"{text}think_ms = {think}")
        return [r.think_time_ms for r in built if r.think_time_ms is not None]

    write_records(folder / "many.jsonl", [Record(prompt="a", response="b", session_id=i // 5) for i in range(5000)])
    assert set(thinks('{ kind = "fixed", value = 250 }')) == {250}
    assert set(thinks('{ kind = "uniform", low = 2, high = 4 }')) == {2, 3, 4}
    logs = np.log(thinks('{ kind = "lognormal", median = 8000, sigma = 0.7 }'))
    assert np.median(logs) == pytest.approx(np.log(8000), abs=0.1)
    assert logs.std() == pytest.approx(0.7, rel=0.05)
    clipped = thinks('{ kind = "lognormal", median = 8000, sigma = 0.7, low = 7000, high = 9000 }')
    assert (min(clipped), max(clipped)) == (7000, 9000)


def test_tags_tenants_salts_start_and_end(folder):
    built = made(folder, MIXED)
    chat = [r for r in built if r.id.startswith("chat/")]
    assert {(r.tenant, r.cache_salt, r.workload) for r in chat} == {("web", "web", "recorded-chat")}
    assert all(10_000 <= r.timestamp < 60_000 for r in chat)
    whole = made(folder, MIXED.replace("end_s = 60\n", ""))
    assert chat == [r for r in whole if r.id.startswith("chat/") and r.timestamp < 60_000]
    assert len(chat) < sum(r.id.startswith("chat/") for r in whole)
    calls = [r for r in built if r.id.startswith("calls/")]
    assert {(r.tenant, r.cache_salt, r.workload) for r in calls} == {(None, None, "api")}
    assert len(calls) == 20
    assert {r.output_length for r in calls} <= set(range(3, 10))


def test_fewer_sessions_are_a_part_of_more(folder):
    def texts(count: int) -> set[str]:
        text = f'[sources.chat]\nkind = "trace"\npath = "chat.jsonl"\nsessions = {count}\n'
        return {r.response for r in made(folder, f'{text}arrivals = {{ kind = "at_once" }}')}

    assert texts(3) < texts(9) < texts(20)


def test_two_files_of_hash_ids_share_none(folder):
    for name in ("a", "b"):
        row = Record(hash_ids=[0, 1, 2], input_length=48, hash_block_size=16, output_length=5)
        write_records(folder / f"{name}.jsonl", [row, row])
    text = '[sources.{0}]\nkind = "trace"\npath = "{1}.jsonl"\narrivals = {{ kind = "at_once" }}\n'
    built = made(folder, text.format("x", "a") + text.format("y", "b") + text.format("z", "a"))
    x, y, z = ({i for r in built if r.id.startswith(name) for i in r.hash_ids} for name in "xyz")
    assert x == z == {0, 1, 2}
    assert not x & y
    assert len(load_tokenised(folder / "out.jsonl", MODEL).prompt_offsets) == len(built) + 1


def test_the_command_says_what_each_source_gave(folder, capsys):
    (folder / "w.toml").write_text(MIXED)
    assert main(["workload", "build", str(folder / "w.toml"), "--out", str(folder / "out.jsonl.gz")]) == 0
    output = capsys.readouterr().out
    assert all(name in output for name in ("chat", "batches", "calls", "left out"))
    assert f"{len(rows(folder / 'out.jsonl.gz'))} requests" in output


def test_the_layer_imports_neither_vllm_nor_torch():
    code = "import sys, vllm_sim.workloads.build; sys.exit(any(name in sys.modules for name in ('vllm', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_parts_of_a_trace_share_no_session_and_are_all_of_it(tmp_path):
    write_records(tmp_path / "many.jsonl", [Record(prompt="a", response="b", session_id=i // 5) for i in range(500)])
    text = '[sources.chat]\nkind = "trace"\npath = "many.jsonl"\npart = "{}/3"\narrivals = {{ kind = "at_once" }}\n'
    parts = [set(by_session(made(tmp_path, text.format(part)))) for part in (1, 2, 3)]
    assert all(len(part) > 20 for part in parts)
    assert sum(len(part) for part in parts) == len(set.union(*parts)) == 100


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b"])
def test_a_part_that_is_not_one_is_refused(tmp_path, part):
    write_records(tmp_path / "many.jsonl", [Record(prompt="a", response="b")])
    with pytest.raises(ValueError, match=r'part.*a text like "1/2"'):
        made(
            tmp_path,
            f'[sources.c]\nkind = "trace"\npath = "many.jsonl"\npart = "{part}"\narrivals = {{ kind = "at_once" }}',
        )
