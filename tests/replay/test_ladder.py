"""The ladder: every computed prompt token is charged to one step, and each step is what it says."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.commands import vllm_sim
from tests.making import gib, settings, small_trace
from tests.serving import MODEL, write_trace
from vllm_sim.eviction.simulate import simulate
from vllm_sim.replay.ladder import MAY_BE_NEGATIVE, explain, file_rows, ladder_requests
from vllm_sim.replay.run import link_blocks, load
from vllm_sim.replay.shared_tokens import shared_tokens

STEPS = ("nothing_to_share", "block_rules", "capacity", "routing", "policy")


def rows_of_tokens(seed: int, count: int = 40) -> list[dict[str, Any]]:
    """Prompts over two tokens that share beginnings of any length, some of them with earlier answers."""
    draw = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        prompt: list[int] = []
        if rows and draw.random() < 0.7:
            before = draw.choice(rows)
            text = before["prompt_token_ids"] + before["response_token_ids"]
            prompt = text[: draw.randint(0, len(text))]
        prompt = prompt + draw.choices((1, 2), k=draw.randint(1, 6))
        response = draw.choices((1, 2), k=draw.randint(1, 6))
        salt = {"cache_salt": "own"} if draw.random() < 0.2 else {}
        rows.append({"prompt_token_ids": prompt, "response_token_ids": response, **salt})
    return rows


def longest_by_hand(rows: list[dict[str, Any]]) -> list[int]:
    found = []
    for place, row in enumerate(rows):
        best = 0
        for before in rows[:place]:
            if before.get("cache_salt") != row.get("cache_salt"):
                continue
            # An end token follows the response, and that one is never computed.
            text = before["prompt_token_ids"] + before["response_token_ids"]
            common = 0
            for one, other in zip(row["prompt_token_ids"], text, strict=False):
                if one != other:
                    break
                common += 1
            best = max(best, common)
        found.append(best)
    return found


@pytest.mark.parametrize("block_size", [2, 3, 16])
def test_what_a_trace_has_to_share_is_the_longest_common_beginning(tmp_path: Path, block_size: int) -> None:
    for seed in range(4):
        rows = rows_of_tokens(seed)
        loaded = load(write_trace(tmp_path / f"{seed}.jsonl", rows), str(MODEL))
        linked = link_blocks(loaded, block_size, raw_blocks=False)
        found = shared_tokens(loaded.trace, linked.chains, linked.requests.salt, block_size)
        assert found.tolist() == longest_by_hand(rows)


def test_the_levels_are_measured_runs_and_the_steps_add_up(tmp_path: Path) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    config = settings(capacity_blocks=90, replicas=3, router="round_robin", policy="lfu")
    ladder = explain(loaded, config)
    assert tuple(ladder.steps) == STEPS
    chains = link_blocks(loaded, 4, raw_blocks=False).chains
    outcome = ladder.result.outcome
    level = outcome.prompt_tokens - ladder.steps["nothing_to_share"] - ladder.steps["block_rules"]
    assert np.array_equal(level, 4 * simulate(chains, "lru", None).hit)
    level = level - ladder.steps["capacity"]
    assert np.array_equal(level, 4 * simulate(chains, "belady", 90).hit)
    for name, tokens in ladder.steps.items():
        assert name in MAY_BE_NEGATIVE or (tokens >= 0).all()
    assert ladder.steps["routing"].any()
    assert ladder.steps["policy"].any()
    for request in ladder_requests(ladder):
        assert sum(request.steps.values()) == request.prompt_tokens - request.hit_tokens


def test_cpu_memory_is_a_step_from_one_cache_of_both_sizes_to_two_tiers(tmp_path: Path) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    ladder = explain(loaded, settings(capacity_blocks=30, kv_offloading_size=gib(40)))
    assert tuple(ladder.steps) == (*STEPS, "tier")
    chains = link_blocks(loaded, 4, raw_blocks=False).chains
    outcome = ladder.result.outcome
    left = outcome.prompt_tokens - sum(ladder.steps[name] for name in STEPS[:3])
    assert np.array_equal(left, 4 * simulate(chains, "belady", 70).hit)
    left = left - ladder.steps["routing"] - ladder.steps["policy"]
    assert np.array_equal(left, 4 * simulate(chains, "lru", 70).hit)
    assert np.array_equal(left - ladder.steps["tier"], outcome.parts.hit)
    assert ladder.steps["tier"].any()
    assert file_rows(ladder)[0]["negative_requests"].keys() == {"routing", "policy", "tier"}


def test_rows_of_the_parts_add_up_to_the_whole(tmp_path: Path) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    rows = file_rows(explain(loaded, settings(capacity_blocks=60, replicas=2, router="session", warmup=0.25)))
    whole = rows[0]
    assert (whole["by"], whole["requests"], whole["router"]) == ("all", 45, "session")
    assert sum(whole["steps"].values()) == whole["computed_tokens"] == whole["prompt_tokens"] - whole["hit_tokens"]
    for by in ("workload", "turn"):
        parts = [row for row in rows if row["by"] == by]
        assert sum(row["requests"] for row in parts) == whole["requests"]
        for name, tokens in whole["steps"].items():
            assert sum(row["steps"][name] for row in parts) == tokens


def test_a_cache_without_a_limit_loses_nothing_to_capacity_and_policy(tmp_path: Path) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    ladder = explain(loaded, settings(capacity_blocks=None, replicas=3, router="round_robin"))
    assert not ladder.steps["capacity"].any()
    assert not ladder.steps["policy"].any()
    assert ladder.steps["routing"].sum() > 0


def test_one_replica_loses_nothing_to_routing(tmp_path: Path) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    assert not explain(loaded, settings(capacity_blocks=40)).steps["routing"].any()


def test_the_command_prints_writes_and_draws_the_same_in_each_run(tmp_path: Path) -> None:
    trace = small_trace(tmp_path)
    words = ["--block-size", "4", "--capacity-blocks", "60", "--replicas", "2", "--router", "random"]
    for name in ("first", "second"):
        found = vllm_sim("explain", trace, "--out", tmp_path / name, *words)
        assert found.returncode == 0, found.stderr
        assert "- routing" in found.stdout
        assert "= found cached" in found.stdout
    for file in ("ladder.jsonl", "ladder_requests.jsonl", "ladder.png", "ladder.pdf", "ladder.html"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    printed = vllm_sim("explain", trace, "--json", *words).stdout.splitlines()
    assert [json.loads(line) for line in printed] == [
        json.loads(line) for line in (tmp_path / "first" / "ladder.jsonl").read_text().splitlines()
    ]


def test_the_ladder_is_of_vllm_s_rules(tmp_path: Path) -> None:
    loaded = load(small_trace(tmp_path), str(MODEL))
    with pytest.raises(ValueError, match="the ladder is of vLLM's rules"):
        explain(loaded, msgspec.structs.replace(settings(), raw_blocks=True))
