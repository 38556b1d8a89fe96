"""The study of hints on a mix that is made here: its script, its rows, the plot, the table, the chapter."""

import json
from pathlib import Path
from typing import Any

import pytest

from milestone3_code.hints.numbers import Case, client_gain, closed, closed_more, words, workload_gains
from milestone3_code.hints.plan import NOTHING, read_plan
from milestone3_code.hints.rows import FILE, row_again
from milestone3_code.hints.table import section
from milestone3_code.study.build import build_mixes
from report.check import check
from report.numbers.build import collect, typeset
from report.numbers.hints import hints_numbers
from tests.commands import script
from tests.milestone3.making import MODEL, ROOT, make_study
from vllm_sim.replay.rows import Row, write_rows
from vllm_sim.sweep.results import read_rows, run_file
from vllm_sim.trace.hinting import Hinting

PLAN = """
mixes = ["tiny"]
seeds = 2
capacities = ["10%", "20%"]

[quick]
seeds = 1
mixes = ["tiny"]

[said.right]
kinds = ["end", "next"]

[said.half]
kinds = ["end", "next"]
share = 0.5

[said.priorities]
kinds = ["retention"]
lies = 0.1

[[grid]]
policies = ["hybrid"]
said = ["nothing"]

[[grid]]
policies = ["ttl", "hybrid"]
said = ["right", "half"]

[[grid]]
policies = ["priority"]
said = ["priorities"]

[engine]
mixes = ["tiny"]
device = "laptop"
load = 1.0
seconds = 120
warmup_s = 40
capacity = "5%"
policies = ["lru", "ttl", "hybrid"]
said = ["nothing", "right"]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    """Folder and rows of a run of the small plan, without the engine."""
    folder = tmp_path_factory.mktemp("hints")
    make(folder)
    return folder, compare(folder, "cache")


def make(folder: Path) -> None:
    _, study = make_study(folder)
    build_mixes([study.configs / "report_tiny.toml"], study.data, False, print, seeds=2)
    (folder / "hints.toml").write_text(PLAN)


def compare(folder: Path, part: str) -> list[Row]:
    given = ("--plan", folder / "hints.toml", "--data", folder / "data", "--model", MODEL, "--jobs", 1)
    done = script("milestone3_code/compare_hints.py", *given, "--out", folder / "results", "--part", part)
    assert done.returncode == 0, done.stderr
    return read_rows(folder / "results" / FILE)


def made_row(said: str, policy: str, gain: int, seed: int = 0, mix: str = "chat", **values: Any) -> Row:
    """A row whose gap is 100 tokens of 1,000 at one capacity."""
    part = {"prompt_tokens": 500, "gain_tokens": gain, "gain_over_silence_tokens": gain - 10}
    kinds = {NOTHING: [], "priorities": ["retention"]}.get(said, ["end", "next"])
    row: Row = {"experiment": "hints", "mix": mix, "mix_seed": seed, "said": said, "kinds": kinds, "share": 1.0}
    row |= {"noise": 0.0, "lies": 0.0, "capacities": ["10%"], "policy": policy, "policy_params": {}, "backend": "fast"}
    row |= {"trace": "t", "trace_sha256": "0", "capacity_blocks": 9, "block_size": 16}
    row |= {"gain_tokens": [gain], "gap_tokens": [100], "prompt_tokens": 1000, "quick": False}
    row |= {"by_workload": {"agents": part, "calls": part | {"gain_over_silence_tokens": -5}}}
    return row | {"data": {"source": "built"}} | values


def made_rows() -> list[Row]:
    half = {"share": 0.5, "by_client": {"speaking": {"prompt_tokens": 500, "gain_over_silence_tokens": 20}}}
    half["by_client"]["silent"] = {"prompt_tokens": 500, "gain_over_silence_tokens": -5}
    rows = []
    for seed in range(2):
        for mix, more in (("chat", 10), ("agents", 0)):
            rows.append(made_row(NOTHING, "hybrid", 20, seed, mix))
            for policy, gain in (("ttl", 70), ("hybrid", 60)):
                rows.append(made_row("right", policy, gain + more + 2 * seed, seed, mix))
                rows.append(made_row("half", policy, 100 - gain, seed, mix, **half))
            rows.append(made_row("priorities", "priority", 30, seed, mix))
    times = {"ttft_ms_p50": 5.0, "ttft_ms_p99": 9.0, "load": 2.0, "seconds": 240.0, "warmup_s": 100.0, "device": "l4"}
    for policy, said, rate in (("lru", NOTHING, 0.5), ("ttl", "right", 0.625)):
        rows.append(made_row(said, policy, 0, backend="engine", token_hit_rate=rate, **times))
    return rows


def test_the_gap_is_closed_by_sums_over_mixes_and_its_interval_is_over_seeds() -> None:
    rows = made_rows()
    right, silent = Case("ttl", "right"), Case("hybrid")
    assert closed(rows, right).mean == pytest.approx(0.76)
    assert closed(rows, right, "chat").mean == pytest.approx(0.81)
    assert closed(rows, silent)[:] == pytest.approx((0.2, 0.2, 0.2))
    assert closed_more(rows, right, silent).mean == pytest.approx(0.56)
    assert closed_more(rows, right, silent).low < 0.56
    assert client_gain(rows, Case("ttl", "half"), "speaking", "gain_over_silence_tokens").mean == pytest.approx(0.04)
    losses = workload_gains(rows, right, "gain_over_silence_tokens")
    assert [(loss.mix, loss.workload) for loss in losses] == [
        (mix, name) for mix in ("chat", "agents") for name in ("agents", "calls")
    ]
    assert losses[1].gain.mean == pytest.approx(-0.01)
    with pytest.raises(ValueError, match=r"no row of ttl, lies; run milestone3_code/compare_hints.py"):
        closed(rows, Case("ttl", "lies"))


def test_what_is_said_is_put_in_words() -> None:
    row = made_row("x", "ttl", 0, share=0.5, noise=1.0, lies=0.1)
    assert words(row) == "end and next turn, 50% of the clients, times off, sigma 1, 10% lies"


def test_the_table_says_what_is_closed_who_pays_and_whether_the_aim_is_reached(tmp_path: Path) -> None:
    assert section(tmp_path).startswith("No rows yet")
    write_rows(tmp_path / FILE, made_rows())
    text = section(tmp_path)
    assert "| end and next turn | 76.0 (" in text
    assert "| priorities |  |  | 30.0 (30.0 to 30.0) % |" in text
    assert "The aim was 60% with hints: reached, 76.0" in text
    assert "speaking clients 4.0 (4.0 to 4.0), silent clients -1.0 (-1.0 to -1.0)" in text
    assert "what gains least is calls in `chat` (-1.0 (-1.0 to -1.0))" in text
    assert "| chat | `ttl` | end and next turn | 62.5 | 5.0 | 9.0 |" in text
    write_rows(tmp_path / FILE, [row | {"quick": True} for row in made_rows()])
    with pytest.raises(ValueError, match="quick run"):
        section(tmp_path)


def test_the_report_has_a_chapter_of_the_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / FILE, made_rows())
    run_file(tmp_path / FILE).write_text(json.dumps({"commit": "0" * 40}))
    numbers = hints_numbers(tmp_path)
    assert (numbers["best"], numbers["reached"], numbers["least_mix"]) == ("ttl", True, "agents")
    assert numbers["doubted"].startswith("end and next turn, 50")
    others = collect(ROOT / "results", ROOT)
    (page,) = typeset(others | {"hints": numbers}, ROOT, "html")
    text = page.decode()
    assert "hint is worth" in text
    assert "is reached" in text
    (page,) = typeset(others | {"hints": numbers | {"reached": False}}, ROOT, "html")
    assert "is not surely reached" in page.decode()


def test_the_plan_of_the_study_is_whole_and_names_what_it_refuses(tmp_path: Path) -> None:
    path = ROOT / "milestone3_code" / "hints.toml"
    plan = read_plan(path, quick=False)
    assert len(plan.points) == len(set(plan.points))
    assert plan.seeds >= 5
    assert {point.said for point in plan.points if point.policy == "hybrid"} == {
        NOTHING, "right", "end", "next", "noisy", "half", "lies",
    }  # fmt: skip
    assert all(point.hinting.seed == point.mix_seed for point in plan.points)
    assert len(read_plan(path, quick=True).points) < 30
    for old, new, reason in (
        ('kinds = ["retention"]', 'kinds = ["soon"]', "kinds is .*allowed: a list of end, next, retention"),
        ('said = ["nothing"]', 'said = ["all"]', "said is .*allowed: a list of nothing, right"),
        ("lies = 0.1", "lie = 0.1", "lie"),
    ):
        (tmp_path / "wrong.toml").write_text(path.read_text().replace(old, new))
        with pytest.raises(ValueError, match=reason):
            read_plan(tmp_path / "wrong.toml", quick=False)


def test_a_mix_that_is_missing_names_the_step_before(tmp_path: Path) -> None:
    done = script("milestone3_code/compare_hints.py", "--data", tmp_path, "--out", tmp_path)
    assert (done.returncode, "first run milestone3_code/build_mixes.py --seeds" in done.stderr) == (1, True)
    done = script("milestone3_code/visualize_hints.py", "--results", tmp_path)
    assert (done.returncode, "first run milestone3_code/compare_hints.py" in done.stderr) == (1, True)


def test_every_point_is_a_row_whose_parts_add_up(run: tuple[Path, list[Row]]) -> None:
    _, rows = run
    assert len(rows) == 2 * 6
    assert {row["mix_seed"] for row in rows} == {0, 1}
    for row in rows:
        tables = [row["by_workload"], *([row["by_client"]] if row["said"] == "half" else [])]
        assert ("by_client" in row) == (row["said"] == "half")
        for table in tables:
            for name in ("gain_tokens", "gain_over_silence_tokens"):
                assert sum(part[name] for part in table.values()) == sum(row[name])
            assert sum(part["prompt_tokens"] for part in table.values()) == 2 * row["prompt_tokens"]
        assert all(gain <= gap for gain, gap in zip(row["gain_tokens"], row["gap_tokens"], strict=True))
        if row["policy"] != "hybrid":
            assert row["gain_over_silence_tokens"] == row["gain_tokens"]
    right = [row for row in rows if row["policy"] == "ttl" and row["said"] == "right"]
    assert all(sum(row["gain_tokens"]) > 0 for row in right)


def test_the_plot_is_drawn_from_the_rows(run: tuple[Path, list[Row]], tmp_path: Path) -> None:
    done = script("milestone3_code/visualize_hints.py", "--results", run[0] / "results", "--out", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"hints_worth.png", "hints_worth.pdf"}


def test_a_row_can_be_computed_again(run: tuple[Path, list[Row]]) -> None:
    folder, rows = run
    again = row_again(rows[2], folder / "data" / rows[2]["trace"], MODEL, folder / "hints.toml")
    assert again == {name: value for name, value in rows[2].items() if name not in ("key", "code")}
    found = check({folder / FILE: rows[:1]}, [folder / "data"], MODEL, sample=1)
    assert "now there is none" in found.differences[0]  # of another plan than the study's


@pytest.mark.slow
def test_the_engine_serves_a_mix_with_what_is_said(tmp_path: Path) -> None:
    make(tmp_path)
    rows = compare(tmp_path, "engine")
    assert [(row["policy"], row["said"]) for row in rows] == [
        ("lru", NOTHING), ("ttl", "right"), ("hybrid", NOTHING), ("hybrid", "right"),
    ]  # fmt: skip
    assert {(row["device"], row["load"], row["warmup_s"]) for row in rows} == {("laptop", 1.0, 40.0)}
    assert all(0 < row["warmup_requests"] < row["requests"] for row in rows)
    assert len({row["trace_sha256"] for row in rows}) == 2
    assert rows[0]["token_hit_rate"] < rows[1]["token_hit_rate"]
    trace = tmp_path / "data" / rows[1]["trace"]
    again = row_again(rows[1], trace, MODEL, tmp_path / "hints.toml")
    assert again is not None
    assert again["hit_tokens"] == rows[1]["hit_tokens"]


def test_hinting_of_points_can_be_a_key() -> None:
    assert hash(Hinting(kinds=("end",), seed=1)) == hash(Hinting(kinds=("end",), seed=1))
