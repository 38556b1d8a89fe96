"""Options of vLLM's scheduler reach it, and the example schedulers do what they say."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.test_replay import rows_of, settings
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.replay.files import replay

EXAMPLES = Path(__file__).parents[2] / "examples" / "schedulers"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory, environment: pytest.MonkeyPatch) -> Path:
    """A first request that is cached; then, at once, prompts of which some begin with it and some are new."""
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    shared = list(range(200, 328))
    rows: list[dict[str, Any]] = [{"prompt_token_ids": shared, "output_length": 2, "timestamp": 0}]
    for place in range(8):
        own = list(range(1000 * (place + 1), 1000 * (place + 1) + 16))
        prompt = shared + own if place % 2 else own * 9
        rows.append({"prompt_token_ids": prompt, "output_length": 30, "timestamp": 500, "priority": 8 - place})
    path = tmp_path_factory.mktemp("schedulers") / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def order(folder: Path) -> list[int]:
    """Rows that waited, in the order in which they started."""
    rows = [row for row in rows_of(folder) if row["row"]]
    return [row["row"] for row in sorted(rows, key=lambda row: (row["first_scheduled_ms"], row["row"]))]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"scheduling_policy": "priority"}, [8, 7, 6, 5, 4, 3, 2, 1]),
        ({"scheduler_cls": "cached_first:LongestCachedPrefixFirst"}, [2, 4, 6, 8, 1, 3, 5, 7]),
        ({"scheduler_cls": "cached_first:ShortestUncachedFirst"}, [2, 4, 6, 8, 1, 3, 5, 7]),
    ],
)
def test_the_order_of_what_waits_is_the_scheduler_s(
    trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any], wanted: list[int]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    summary = replay(trace, tmp_path, settings(max_num_seqs=1, capacity_blocks=300, **values))
    assert order(tmp_path) == wanted
    row = summary.to_row()
    assert {name: row[name] for name in values} == values
    by_hit = row["by_hit"]
    assert (by_hit["hit"]["requests"], by_hit["miss"]["requests"]) == (4, 5)
    starves = by_hit["miss"]["ttft_ms_max"] > by_hit["hit"]["ttft_ms_max"]
    assert starves == (wanted[-1] % 2 == 1)  # the prompts of odd rows are new


def test_limits_of_the_scheduler_change_the_schedule(trace: Path, tmp_path: Path) -> None:
    found = {}
    for name, values in {
        "none": {},
        "threshold": {"long_prefill_token_threshold": 32},
        "active": {"max_num_active_seqs": 2},
        "watermark": {"watermark": 0.6},
    }.items():
        replay(trace, tmp_path / name, settings(max_num_seqs=8, capacity_blocks=100, **values))
        found[name] = [row["first_token_ms"] for row in rows_of(tmp_path / name)]
    assert all(found[name] != found["none"] for name in ("threshold", "active", "watermark"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"scheduler_cls": "cached_first"}, "scheduler_cls is 'cached_first'; allowed: module:Class"),
        ({"watermark": 1.0}, "watermark is 1.0; allowed: a share from 0"),
        ({"max_num_active_seqs": 9, "max_num_seqs": 8}, "max_num_active_seqs is 9; allowed: up to max_num_seqs, 8"),
        ({"watermark": 0.1, "engine_args": {"watermark": 0.2}}, "engine_args has watermark, which is an option"),
        ({"scheduling_policy": "sjf"}, "scheduling_policy is 'sjf'; allowed: fcfs, priority"),
    ],
)
def test_an_option_that_is_wrong_says_so(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        settings(**values)


def test_a_scheduler_of_the_wrong_kind_is_refused(trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    own = "cached_first:LongestCachedPrefixFirst"
    with pytest.raises(ValueError, match=r"not a subclass of vllm\.v1\.core.*AsyncScheduler"):
        replay(trace, tmp_path, settings(scheduler_cls=own, async_scheduling=True))
    with pytest.raises(ValueError, match="scheduler_cls is 'nowhere:Class', which cannot be loaded"):
        replay(trace, tmp_path, settings(scheduler_cls="nowhere:Class"))
