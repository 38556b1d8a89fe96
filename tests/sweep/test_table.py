"""Rows as a table, and capacities in the units that people have."""

import csv
import json
import sys
from pathlib import Path

import pytest

from tests.commands import vllm_sim
from vllm_sim.models.known import write_config
from vllm_sim.sweep.units import Traffic, traffic_of, units_of
from vllm_sim.trace.record import Record

ROWS = [
    {"policy": "lru", "capacity_blocks": 20, "by_turn": {"0": {"requests": 3}}, "curve": [1, 2]},
    {"policy": "arc", "capacity_blocks": None, "token_hit_rate": 0.5},
    {"policy": "lru", "capacity_blocks": "all", "token_hit_rate": 1},
]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_csv_has_a_column_for_each_field_of_a_field(rows: Path, tmp_path: Path) -> None:
    done = vllm_sim("rows", rows, "--out", tmp_path / "rows.csv")
    assert done.stdout == f"{tmp_path / 'rows.csv'}: 3 rows, 5 columns\n"
    with (tmp_path / "rows.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert found[0] == {
        "policy": "lru", "capacity_blocks": "20", "by_turn.0.requests": "3", "curve": "[1, 2]", "token_hit_rate": "",
    }  # fmt: skip
    assert [row["token_hit_rate"] for row in found] == ["", "0.5", "1"]


def test_parquet_keeps_types_where_a_column_has_one(rows: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert vllm_sim("rows", rows, "--format", "parquet", "--out", tmp_path / "rows.parquet").returncode == 0
    table = parquet.read_table(tmp_path / "rows.parquet")
    assert table["token_hit_rate"].to_pylist() == [None, 0.5, 1.0]
    assert table["capacity_blocks"].to_pylist() == ["20", None, "all"]


def test_parquet_without_pyarrow_names_the_extra(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = vllm_sim("rows", rows, "--format", "parquet", "--out", tmp_path / "rows.parquet")
    assert done.returncode == 1
    assert 'the module pyarrow is not installed: pip install "vllm-sim[parquet]"' in done.stderr
    assert list(tmp_path.iterdir()) == [rows]


def test_no_row_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    assert "there is no row to write" in vllm_sim("rows", tmp_path / "rows.jsonl", "--out", tmp_path / "o").stderr


def test_a_capacity_in_units() -> None:
    records = [Record(prompt="a", response="b", timestamp=1000 * second) for second in (3, 1, 11)]
    traffic = traffic_of(records, tokens=5000)
    assert traffic == Traffic(5000, 10.0)
    found = units_of(100, 16, 400, None, traffic)
    assert found == (1600, None, 0.25, 3.2)
    assert units_of(100, 16, None, None, traffic_of([], 5)) == (1600, None, None, None)


def test_gib_are_those_of_a_model_that_keeps_every_token(tmp_path: Path) -> None:
    for name in ("llama-3.1-8b", "gpt-oss-20b", "kimi-k2"):
        write_config(name, tmp_path / name)
    gib = {
        name: units_of(8192, 16, 1, str(tmp_path / name), None).gib
        for name in ("llama-3.1-8b", "gpt-oss-20b", "kimi-k2")
    }
    assert gib == {"llama-3.1-8b": 16.0, "gpt-oss-20b": None, "kimi-k2": None}
