"""The study of hybrid models on a mix that is made here: its script, its rows, and the table out of rows."""

from pathlib import Path
from typing import Any

import pytest

from milestone3_code.hybrids.plan import LISTS, read_plan
from milestone3_code.hybrids.rows import ROWS
from milestone3_code.hybrids.table import section, what_to_set
from report.numbers.models import model_numbers
from tests.commands import script
from tests.milestone3.making import MODEL, ROOT, make_study
from vllm_sim.replay.rows import Row, write_rows
from vllm_sim.sweep.results import read_rows

PLAN = """
models = ["gpt-oss-20b", "jamba-1.5-mini"]
traffic = ["tiny"]
requests = 40

[usual]
memory = ["8GiB"]
layout = ["groups"]
retention = ["default"]
match_unit = [0]
block_size = [16]
policy = ["lru"]

[quick]
requests = 40

[[grid]]
experiment = "memory"
memory = ["8GiB", "unlimited"]
layout = ["groups", "full"]

[[grid]]
experiment = "options"
retention = ["default", "100"]

[[grid]]
experiment = "options"
match_unit = [16]

[[grid]]
experiment = "policy"
policy = ["lru", "hybrid"]
"""


def made_row(experiment: str, rate: float, **values: Any) -> Row:
    usual: Row = {"model": "m", "memory": "8GiB", "layout": "groups", "retention": "default", "match_unit": 0}
    usual |= {"trace": "t", "trace_sha256": "0", "backend": "fast", "capacity_blocks": 9, "requests": 40}
    usual |= {"miss_window_tokens": 0, "miss_alignment_tokens": 10, "miss_evicted_tokens": 20}
    usual |= {"traffic": "chat", "block_size": 16, "policy": "lru", "quick": False, "hit_alignment_tokens": 784}
    return usual | {"experiment": experiment, "token_hit_rate": rate} | values


ROWS_MADE = [
    made_row("memory", 0.5),
    made_row("memory", 0.25, layout="full"),
    made_row("memory", 0.75, memory="unlimited"),
    made_row("options", 0.5),
    made_row("options", 0.504, retention="none"),
    made_row("options", 0.52, match_unit=16, miss_alignment_tokens=0),
    made_row("options", 0.4, block_size=64),
    made_row("policy", 0.3),
    made_row("policy", 0.35, policy="hybrid", miss_evicted_tokens=5),
]


def test_an_option_is_set_where_it_is_worth_it(tmp_path: Path) -> None:
    advice = what_to_set(ROWS_MADE)
    assert [one.option for one in advice] == ["policy `hybrid`", "`--prefix-match-unit 16`"]
    assert [one.gain for one in advice] == pytest.approx([0.05, 0.02])
    assert [one.reason for one in advice] == ["evicted", "alignment"]
    write_rows(tmp_path / ROWS, ROWS_MADE)
    assert section(tmp_path).splitlines()[2] == (
        "| `m` | 784 | 0.500, 0.250, 0.750 | policy `hybrid` (+5.0, fewer evicted misses); "
        "`--prefix-match-unit 16` (+2.0, fewer alignment misses) |"
    )
    write_rows(tmp_path / ROWS, [*ROWS_MADE[:5], *ROWS_MADE[7:8]])
    assert section(tmp_path).splitlines()[2].endswith("| nothing |")


def test_the_report_has_the_numbers_of_the_rows(tmp_path: Path) -> None:
    write_rows(tmp_path / ROWS, ROWS_MADE)
    numbers = model_numbers(tmp_path)
    assert numbers["table"] == [["`m`", "784", "50.0", "25.0", "75.0"]]
    assert numbers["advice"] == [["`m`", "`hybrid`", "+5.0 points", "evicted misses"]]
    assert numbers["less_than_full"] == []
    write_rows(tmp_path / ROWS, [ROWS_MADE[0], ROWS_MADE[1] | {"token_hit_rate": 0.6}, *ROWS_MADE[2:]])
    assert model_numbers(tmp_path)["less_than_full"] == ["m"]


def test_rows_of_a_quick_run_or_rows_that_are_missing_make_no_table(tmp_path: Path) -> None:
    assert section(tmp_path).startswith("No rows yet")
    write_rows(tmp_path / ROWS, [row | {"quick": True} for row in ROWS_MADE])
    with pytest.raises(ValueError, match="quick run"):
        section(tmp_path)
    write_rows(tmp_path / ROWS, ROWS_MADE[1:])
    with pytest.raises(ValueError, match=r"no row of .*run compare_hybrids\.py"):
        section(tmp_path)


def test_the_plan_of_the_study_has_eight_models_and_a_match_unit_for_those_with_states_alone(tmp_path: Path) -> None:
    path = ROOT / "milestone3_code" / "hybrids.toml"
    points = read_plan(path, quick=False).points
    assert len(points) == len(set(points))
    assert len({point.model for point in points}) == 8
    assert {point.model for point in points if point.match_unit} == {
        "qwen3.6-27b", "qwen3.6-35b-a3b", "granite-4-h-small", "falcon-h1-7b",
    }  # fmt: skip
    # vLLM refuses an interval where layers have neither windows nor states.
    assert {point.model for point in points} - {point.model for point in points if point.retention != "default"} == {
        "llama-4-scout"
    }
    assert len(read_plan(path, quick=True).points) < 30
    for old, new, reason in (
        ('"gpt-oss-20b",', '"gpt-5",', "models has 'gpt-5'; allowed: gpt-oss-20b"),
        ('"groups", "full"', '"groups", "half"', "layout has 'half'; allowed: groups, full"),
        ("match_unit = [0, 16]", "unit = [0, 16]", f"a grid has unit; allowed: {', '.join(LISTS)}"),
    ):
        wrong = tmp_path / "wrong.toml"
        wrong.write_text(path.read_text().replace(old, new))
        with pytest.raises(ValueError, match=reason):
            read_plan(wrong, quick=False)


def test_a_mix_that_is_missing_names_the_step_before(tmp_path: Path) -> None:
    done = script("milestone3_code/compare_hybrids.py", "--data", tmp_path, "--out", tmp_path)
    assert (done.returncode, "first run milestone3_code/build_mixes.py" in done.stderr) == (1, True)


@pytest.mark.slow
def test_the_script_makes_the_rows_of_a_plan(tmp_path: Path) -> None:
    _, study = make_study(tmp_path)
    (tmp_path / "hybrids.toml").write_text(PLAN)
    given = ("--plan", tmp_path / "hybrids.toml", "--data", study.data, "--model", MODEL, "--jobs", 1)
    done = script("milestone3_code/compare_hybrids.py", *given, "--made", tmp_path / "made", "--out", tmp_path / "rows")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "rows" / ROWS)
    assert len(rows) == 2 * (4 + 2 + 2) + 1
    for row in rows:
        assert row["requests"] == 40
        is_hybrid = row["layout"] == "groups"
        assert ("cache_groups" in row, row["capacity_blocks"] is None) == (is_hybrid, row["memory"] == "unlimited")
        assert row["backend"] == ("blockpool" if row["match_unit"] else "fast")
    windows = [row for row in rows if row["model"] == "gpt-oss-20b" and row["memory"] == "8GiB"]
    groups, full = (next(row for row in windows if row["layout"] == layout) for layout in ("groups", "full"))
    assert groups["capacity_blocks"] == 2 * full["capacity_blocks"]
    assert next(row for row in windows if row["retention"] == "100")["engine_args"] == {
        "prefix_cache_retention_interval": 112
    }
    assert "| `jamba-1.5-mini` | 80 |" in section(tmp_path / "rows")
    done = script("milestone3_code/visualize_hybrids.py", "--results", tmp_path / "rows", "--out", tmp_path / "figures")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"hybrids_memory.png", "hybrids_memory.pdf"}
