"""The tables of the README and of docs/results.md are made from rows, and from results alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from milestone2_code.study.study import ORACLE
from report.readme import backends, findings, rewrite, table
from tests.serving import ROOT


def row(experiment: str, workload: str, **values: Any) -> dict[str, Any]:
    found = {"experiment": experiment, "workload": workload, "quick": False, "requests": 1234, "block_size": 16}
    found |= {"conversations": 5678, "capacity_gib": 1.5, "capacity_seconds": 60.0}
    found |= {"policy": "lru", "capacity_share": None, "backend": "fast"} | values
    for rate in ("token_hit_rate", "block_hit_rate", "request_hit_rate"):
        found |= {rate: 0.5, f"{rate}_ci95": [0.4, 0.6]}
    return found


def rows() -> list[dict[str, Any]]:
    made = []
    for name in ("single", "multi"):
        made += [row("capacity", name, capacity_share=share) for share in (None, 0.5, 0.2, 0.1)]
        made += [row("policy", name, capacity_share=0.1, policy=policy) for policy in ("belady", "hybrid", ORACLE)]
        made += [row("block_size", name, block_size=size) for size in (64, 512)]
        made.append(row("system_prompt", name))
    return made


def test_every_rate_has_its_interval() -> None:
    lines = table(rows()).splitlines()[6:]
    assert len(lines) == 12
    assert all(line.count("50.0 (40.0 to 60.0)") == 2 for line in lines)


def test_rows_of_a_quick_run_make_no_table() -> None:
    with pytest.raises(ValueError, match="quick run"):
        table([*rows(), row("capacity", "single") | {"quick": True}])


def test_a_row_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="no row of policy, single"):
        table([found for found in rows() if found["policy"] != "hybrid"])


def test_the_engine_s_rows_stand_below_those_they_agree_with() -> None:
    agree = [row("agree", "multi", capacity_share=0.1, hit_tokens=9, backend=name) for name in ("fast", "blockpool")]
    engine = []
    for arrival in ("open, speedup 1", "closed, concurrency 64", "closed, concurrency 1"):
        values = {"arrival": arrival, "sessions_per_s": 16.0, "hit_tokens": 9, "capacity_share": 0.1}
        for field in ("ttft_ms_p50", "ttft_ms_p99", "output_tokens_per_s"):
            values |= {field: 1234.56, f"{field}_ci95": [1.0, 2000.0]}
        engine.append(row("engine", "multi", backend="engine", **values))
    lines = backends(agree, engine).splitlines()[2:]
    arrivals = [line.split(" | ")[2] for line in lines]
    assert arrivals == ["one after the other"] * 2 + ["concurrency 1", "concurrency 64", "16 sessions/s"]
    assert "1234.6 (1.0 to 2000.0)" in lines[-1]
    assert "1,235 (1 to 2,000)" in lines[-1]


def test_text_around_the_tables_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n")
    with pytest.raises(ValueError, match="lacks <!-- two: begin -->"):
        rewrite(page, {"two": str}, tmp_path)
    kept = "before\n<!-- two: begin -->\nold\n<!-- two: end -->\nafter\n"
    page.write_text(kept)
    with pytest.raises(FileNotFoundError):
        rewrite(page, {"two": findings}, tmp_path)
    assert page.read_text() == kept
    rewrite(page, {"two": lambda results: results.name}, tmp_path / "new")
    assert page.read_text() == kept.replace("old", "new")


FINDINGS = ("chat.jsonl", "mixed.jsonl", "mixed_engine.jsonl", "mixed_gap.jsonl", "routing.jsonl")


def test_a_changed_row_changes_the_findings(tmp_path: Path) -> None:
    before = findings(ROOT / "results")
    assert len(before.splitlines()) == 2 + 4
    for name in FINDINGS:
        lines = (ROOT / "results" / name).read_text(encoding="utf-8").splitlines()
        changed = [json.loads(line) for line in lines]
        for found in changed:
            for field in ("token_hit_rate", "gap_closed", "gain_over_lru"):
                if isinstance(found.get(field), float):
                    found[field] /= 2
        (tmp_path / name).write_text("".join(json.dumps(found) + "\n" for found in changed), encoding="utf-8")
    after = findings(tmp_path)
    assert all(old != new for old, new in zip(before.splitlines()[2:], after.splitlines()[2:], strict=True))


def test_findings_of_a_quick_run_are_refused(tmp_path: Path) -> None:
    for name in FINDINGS:
        first, *_ = (ROOT / "results" / name).read_text(encoding="utf-8").splitlines()
        (tmp_path / name).write_text(json.dumps(json.loads(first) | {"quick": True}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="quick run"):
        findings(tmp_path)
