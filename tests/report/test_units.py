"""The main result in the units of a server: what a device holds of a working set, and what hits save."""

import json
from pathlib import Path

import pytest

from report.numbers.rows import Rows
from report.numbers.units import device_numbers, saved_numbers, unit_table
from vllm_sim.sweep.results import run_file


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """One mix of which half is 8 GiB: LRU hits 60 % of its tokens, the hybrid 65, the optimum 80."""
    found = []
    for policy, hit, saved_ms in (("lru", 0.6, 3.0), ("hybrid", 0.65, 3.25), ("belady", 0.8, 4.0)):
        for capacity in ("5%", "10%", "20%", "50%", None):
            row = {"experiment": "gap", "mix": "even", "policy": policy, "capacity": capacity, "block_size": 16}
            row |= {"trace": "t", "trace_sha256": "0", "backend": "fast", "capacity_blocks": None, "quick": False}
            row |= {"capacity_gib": 8.0, "capacity_seconds": 30.0, "device": "h100", "saved_ms_a_request": saved_ms}
            row |= {"token_hit_rate": hit, "compute_hit_rate": hit - 0.01, "gain_over_lru": hit - 0.6}
            row |= {"gap_closed": (hit - 0.6) / 0.2, "gap_closed_ci95": [0.2, 0.3], "compute_gap_closed": 0.24}
            found.append(row)
    path = tmp_path / "mixed_gap.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    run_file(path).write_text(json.dumps({"commit": "0" * 40}))
    return Rows(path, "make study")


def test_a_device_holds_what_weights_and_a_reserve_leave(rows: Rows) -> None:
    found = device_numbers(rows, ["even"])
    room = 0.9 * 24 - 2 * 1.236e9 / 2**30 - 2  # of an L4 with the 1B model; the whole working set is 16 GiB
    assert found["table"][0] == ["`Llama-3.2-1B`", "L4", f"{room:.1f}", f"{100 * room / 16:.0f}"]
    large = 0.9 * 80 - 2 * 8.030e9 / 2**30 - 2
    assert found["table"][-1] == ["`Llama-3.1-8B`", "H100", f"{large:.1f}", f"{100 * large / (4 * 16):.0f}"]


def test_tables_have_both_models_seconds_operations_and_time(rows: Rows) -> None:
    first = unit_table(rows, ["even"], 0.02)[0]
    assert first[2:7] == ["8.0", "32.0", "30", "60.0", "80.0"]
    assert first[8] == "25.0 (20.0 to 30.0)"
    assert not unit_table(rows, ["even"], 0.3)[0][8]
    saved = saved_numbers(rows, ["even"])
    assert saved["table"] == [
        ["even", "60.0", "65.0", "80.0", "59.0", "64.0", "79.0", "25.0", "24.0", "3.00", "3.25", "4.00"]
    ]
    assert (saved["lru"], saved["belady"]) == ("3.0", "4.0")
