"""Rows have types: options, identity and groups of plots come from their fields, and a row can be run again."""

import argparse
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.making import settings, small_trace
from vllm_sim.cli.running import add_config_options, config_from
from vllm_sim.plots.grouping import conditions
from vllm_sim.replay.about import fields_of
from vllm_sim.replay.backends import BACKENDS
from vllm_sim.replay.config import RunConfig, config_fields, config_of
from vllm_sim.replay.config_checks import SCHEDULER, TIER_FIELDS
from vllm_sim.replay.files import replay
from vllm_sim.replay.latency import DEVICES, MODELS
from vllm_sim.replay.old_rows import upgraded
from vllm_sim.replay.rows import SCHEMA, Rates, RequestResult, RunSummary, SessionResult

TYPES = (RequestResult, Rates, SessionResult, RunSummary, RunConfig)


@pytest.mark.parametrize("kind", TYPES)
def test_every_field_is_said_what_it_is_and_has_a_unit_where_its_name_has_one(kind: type) -> None:
    described = {field.name: field.about for field in fields_of(kind)}
    assert set(kind.__struct_fields__) - set(described) <= {"schema", "config", "plain_steps"}
    for name, about in described.items():
        assert about.text
        for ending, unit in (("_tokens", "tokens"), ("_blocks", "blocks"), ("_ms", "ms")):
            if name.endswith(ending) and name not in ("generated_blocks", "raw_blocks"):
                assert about.unit == unit, name


@pytest.mark.parametrize("is_grid", [False, True])
def test_every_field_of_a_configuration_is_an_option_and_its_default_is_the_field_s(is_grid: bool) -> None:
    parser = argparse.ArgumentParser()
    add_config_options(parser, backend="engine", is_grid=is_grid)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for field in config_fields():
        own = {"latency_table": "--latency-file", "attribution": "--no-attribution"}
        assert own.get(field.name, "--" + field.name.replace("_", "-")) in flags
    if not is_grid:
        options = parser.parse_args(["--model", "folder"])
        assert config_from(options) == RunConfig(model="folder")


def test_choices_are_those_of_the_parts() -> None:
    choices = {field.name: field.about.choices for field in config_fields() if field.about.choices}
    assert choices == {
        "backend": tuple(BACKENDS),
        "latency_model": MODELS,
        "device": tuple(DEVICES),
        "scheduling_policy": ("fcfs", "priority"),
    }


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"policy": "slru", "policy_params": {"protected": 0.5}, "warmup": 0.3, "seed": 3},
        {"capacity_blocks": None, "block_size": 8},
        {"model": None},
    ],
)
def test_a_row_turned_into_its_configuration_and_run_gives_the_row_again(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    trace, config = small_trace(tmp_path), settings(**values)
    replay(trace, tmp_path / "first", config)
    row = json.loads((tmp_path / "first" / "summary.jsonl").read_text())
    assert config_of(row, config.model) == config
    assert replay(trace, tmp_path / "second", config_of(row, config.model)).to_row() == row
    for name in ("requests", "summary", "sessions"):
        lines = (tmp_path / "first" / f"{name}.jsonl").read_text().splitlines()
        assert {json.loads(line)["schema"] for line in lines} == {SCHEMA}


def test_rows_of_the_engine_alone_hold_what_it_alone_heeds() -> None:
    scheduler = {
        "scheduling_policy": "priority",
        "scheduler_cls": "mine:Scheduler",
        "long_prefill_token_threshold": 64,
        "watermark": 0.1,
        "scheduler_reserve_full_isl": False,
        "max_num_active_seqs": 4,
    }
    assert set(scheduler) == set(SCHEDULER)
    tier = {
        "kv_offloading_size": 1.0,
        "offload_gbps": 5.0,
        "offload_block_size": 32,
        "offload_store_threshold": 2,
        "offload_policy": "arc",
    }
    devices = {"tensor_parallel": 2, "host_overhead_ms": 1.0, "engine_args": {"stream_interval": 2}}
    fast = settings().values()
    engine = settings(backend="engine", **devices, **scheduler, **tier).values()
    own = set(engine) - set(fast)
    assert set(tier) == set(TIER_FIELDS)
    assert own - set(tier) == {field.name for field in config_fields() if field.about.scope != "all"} - set(tier)
    assert set(tier) < own
    pool = settings(backend="blockpool", model="m", engine_args={"watermark": 0.1}, max_num_batched_tokens=64).values()
    assert set(pool) - set(fast) == {field.name for field in config_fields() if field.about.scope == "groups"}
    assert set(settings(backend="blockpool").values()) == set(fast)
    with pytest.raises(ValueError, match="the row has no concurrency"):
        config_of({name: value for name, value in engine.items() if name != "concurrency"}, "model")


def test_rows_that_differ_in_any_setting_of_the_engine_are_not_drawn_together() -> None:
    base = settings(backend="engine").values()
    others = [{"concurrency": 2}, {"speedup": 2.0}, {"max_num_seqs": 3}, {"async_scheduling": True}, {"device": "l4"}]
    found = [conditions(base | other) for other in ({}, *others)]
    assert len({json.dumps(one, sort_keys=True) for one in found}) == len(found)


def test_a_row_from_before_rows_had_a_schema_number_is_read() -> None:
    old = {"trace": "t", "backend": "engine", "arrival": "closed, concurrency 8", "requests": 10, "hit_tokens": 1}
    row = upgraded(old | {"warmup_requests": 3, "token_hit_rate_95": [0, 1], "device": None})
    assert (row["schema"], row["concurrency"], row["speedup"]) == (0, 8, 1.0)
    assert int(row["requests"] * row["warmup"]) == 3
    assert row["token_hit_rate_ci95"] == [0, 1]
    assert upgraded(old | {"arrival": "open, speedup 2.5"})["speedup"] == 2.5
    assert upgraded({"schema": 1}) == {"schema": 1}


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"backend": "gpu"}, "backend is 'gpu'; allowed: engine, blockpool, fast"),
        ({"block_size": 0}, "block_size is 0; allowed: 1 or more"),
        ({"warmup": 1.0}, "warmup is 1.0; allowed: a fraction"),
        ({"speedup": 0}, "speedup is 0; allowed: more than 0"),
        ({"policy": "arc", "capacity_blocks": "all"}, "capacity all is exact for LRU alone"),
        ({"backend": "engine", "model": None}, "the engine needs a model; allowed: --model FOLDER"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_what_is(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        settings(**values)


def test_a_row_of_json_with_a_wrong_type_is_refused() -> None:
    row = json.loads(msgspec.json.encode(settings().values())) | {"block_size": "16"}
    with pytest.raises(ValueError, match="block_size"):
        config_of(row, "model")
