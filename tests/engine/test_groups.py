"""Models whose layers do not all keep the same: what is hit, what is lost, and to what, on vLLM's own cache manager."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vllm.model_executor.models import registry

from tests.engine.test_replay import SHARED_FIELDS, conversations, rows_of
from vllm_sim.engine.backends import driver, group_ledger
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.eviction.names import LITERATURE, POLICIES
from vllm_sim.models.known import write_config
from vllm_sim.models.work import Attention, Experts, ModelWork
from vllm_sim.replay.config import RunConfig
from vllm_sim.replay.files import replay
from vllm_sim.replay.latency import Roofline
from vllm_sim.replay.rows import GROUP_MISSES, MISSES, RunSummary
from vllm_sim.step_load import Reach, load_of

Replay = Callable[..., tuple[RunSummary, list[dict[str, Any]]]]
SHARED = (*SHARED_FIELDS, *GROUP_MISSES, "missed_group")
FEW = {"num_hidden_layers": 4}
UNIFORM = {"disable_hybrid_kv_cache_manager": True}
STATES = {"num_hidden_layers": 4, "layer_types": None}
MAMBA2 = {"num_hidden_layers": 6, "layer_types": [*["mamba"] * 5, "attention"]}
"""Whose last chunk of a prompt keeps a state inside."""
CHAT = {"vocab_size": 201088, "eos_token_id": 128009, "pad_token_id": 0}
"""For the tokens of `conversations`."""
GEMMA = {"num_hidden_layers": 12}
"""Five groups of sliding windows and one of full attention, as Gemma 4 31B has."""


@pytest.fixture
def run(environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Replays rows on a model of the list, one with fewer layers: run(name, changes, rows, **settings)."""
    environment.setenv(TRACE_VARIABLE, "set by each replay, and put back after these tests")
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())  # see test_models.py

    def replay_rows(
        name: str, changes: dict[str, Any], rows: list[dict[str, Any]], **settings: Any
    ) -> tuple[RunSummary, list[dict[str, Any]]]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        config = write_config(name, folder / "model")
        values = json.loads(config.read_text()) | changes
        config.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
        trace = folder / "trace.jsonl"
        trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
        wanted = {"latency_model": "zero", "concurrency": 1} | settings
        summary = replay(trace, folder / "run", RunConfig(model=str(config.parent), **wanted))
        return summary, rows_of(folder / "run")

    return replay_rows


def family(length: int, shared: int) -> list[dict[str, Any]]:
    """A prompt, two others that share its first part, and the last one again."""
    draw = random.Random(7)
    first = draw.choices(range(1000), k=shared)
    prompts = [first + draw.choices(range(1000), k=length - shared) for _ in range(3)]
    return [{"prompt_token_ids": prompt, "response_token_ids": [5, 6, 7]} for prompt in (*prompts, prompts[-1])]


def names(row: dict[str, Any]) -> int:
    return sum(row[name] for name in (*MISSES, *GROUP_MISSES))


@pytest.mark.parametrize(
    ("name", "changes", "engine_args", "hits", "windows", "alignments"),
    [
        ("gpt-oss-20b", FEW, {}, [0, 0, 2992, 4992], [0, 2992, 0, 0], [0, 0, 0, 0]),
        (
            "gpt-oss-20b",
            FEW,
            {"prefix_cache_retention_interval": 1024},
            [0, 2048, 2992, 4992],
            [0, 944, 0, 0],
            [0, 0, 0, 0],
        ),
        ("gpt-oss-20b", FEW, {"prefix_cache_retention_interval": None}, [0, 2992, 2992, 4992], [0] * 4, [0] * 4),
        ("gpt-oss-20b", FEW, UNIFORM, [0, 2992, 2992, 4992], [0] * 4, [0] * 4),
        ("llama-4-scout", FEW, {}, [0, 2992, 2992, 4992], [0, 0, 0, 0], [0, 0, 0, 0]),
        ("mistral-7b-v0.1", FEW, {}, [0, 0, 0, 4992], [0, 2992, 2992, 0], [0, 0, 0, 0]),
        ("qwen3.6-27b", STATES, {}, [0, 0, 2352, 4704], [0, 2352, 0, 0], [0, 640, 640, 288]),
        ("qwen3.6-27b", STATES, {"prefix_match_unit": 16}, [0, 0, 2352, 4992], [0, 2992, 640, 0], [0, 0, 0, 0]),
    ],
)
def test_siblings_find_what_the_groups_kept_and_the_rest_is_named(
    run: Replay,
    name: str,
    changes: dict[str, Any],
    engine_args: dict[str, Any],
    hits: list[int],
    windows: list[int],
    alignments: list[int],
) -> None:
    summary, rows = run(name, changes, family(5000, 3000), engine_args=engine_args)
    assert [row["hit_tokens"] for row in rows] == hits
    found = [[row.get(f"miss_{part}_tokens", 0) for row in rows] for part in ("window", "alignment")]
    assert found == [windows, alignments]
    for row, window in zip(rows, windows, strict=True):
        if "missed_group" in row:
            assert names(row) + row["hit_tokens"] == row["prompt_tokens"] == 5000
            assert (row["missed_group"] is not None) == (window > 0)
    assert summary.miss_evicted_tokens == 0


def test_states_are_hit_at_multiples_of_their_block_alone(run: Replay) -> None:
    """vLLM issue 54607: prompts of less than a block of 784 tokens are never hit, unless a match unit is given."""
    short = [{"prompt_token_ids": [*range(1000, 1700)], "response_token_ids": [5]}] * 2
    summary, (_, again) = run("qwen3.6-27b", STATES, short)
    assert summary.hit_alignment_tokens == 784
    assert (again["hit_tokens"], again["miss_alignment_tokens"], again["missed_group"]) == (0, 688, None)
    summary, (_, again) = run("qwen3.6-27b", STATES, short, engine_args={"prefix_match_unit": 16})
    assert summary.hit_alignment_tokens == 16
    assert (again["hit_tokens"], again["miss_alignment_tokens"]) == (688, 0)


@pytest.mark.parametrize(
    ("sessions", "retention", "at_least", "at_most"), [(5, None, 0.98, 1), (6, None, 0, 0), (6, 0, 0.98, 1)]
)
def test_windows_that_are_all_kept_push_a_working_set_over_a_cliff(
    run: Replay, sessions: int, retention: int | None, at_least: float, at_most: float
) -> None:
    """vLLM issue 48435: 11,844 blocks, five groups of sliding windows, sessions of 6,000 tokens in turn."""
    draw = random.Random(3)
    prompts = [draw.choices(range(1000), k=6000) for _ in range(sessions)]
    rows = [{"prompt_token_ids": prompt, "response_token_ids": [5, 6]} for prompt in prompts * 3]
    summary, _ = run(
        "gemma-3-27b",
        GEMMA,
        rows,
        capacity_blocks=11844,
        warmup=0.34,
        engine_args={"prefix_cache_retention_interval": retention},
    )
    assert [group.kind for group in summary.cache_groups] == ["sliding_window"] * 5 + ["full_attention"]
    assert at_least <= summary.token_hit_rate <= at_most


@pytest.mark.parametrize("options", [{}, {"async_scheduling": True}, {"max_num_batched_tokens": 64, "max_num_seqs": 8}])
@pytest.mark.parametrize(
    ("name", "changes", "capacity"),
    [
        ("gpt-oss-20b", FEW | {"sliding_window": 40}, 90),
        ("gemma-4-31b", {"num_hidden_layers": 6, "sliding_window": 32}, 200),
        ("jamba-1.5-mini", {"num_hidden_layers": 8}, 60),
    ],
)
def test_every_prompt_token_has_one_reason_under_eviction(
    run: Replay, name: str, changes: dict[str, Any], capacity: int, options: dict[str, Any]
) -> None:
    rows = conversations(12, 5, seed=1)
    summary, found = run(name, changes | CHAT, rows, capacity_blocks=capacity, concurrency=8, **options)
    for row in found:
        assert row["hit_tokens"] + names(row) == row["prompt_tokens"]
        assert all(row[part] >= 0 for part in (*MISSES, *GROUP_MISSES))
        lost = row["miss_evicted_tokens"] + row["miss_window_tokens"]
        assert (row["missed_group"] is not None) == (lost > 0 and row["status"] == "ok")
    assert summary.miss_evicted_tokens > 0
    assert summary.hit_tokens > 0
    assert summary.evicted_blocks > 0
    assert summary.rejected_requests < len(rows) / 2


def test_a_state_whose_key_is_replaced_is_not_called_evicted(run: Replay) -> None:
    """Under a match unit Mamba 2 keeps the state inside a prompt's last chunk at the prompt's end alone."""
    options = {"prefix_match_unit": 16}
    rows = family(200, 120)
    summary, found = run("granite-4-h-small", MAMBA2 | {"mamba_d_state": 8}, rows, engine_args=options)
    assert summary.evicted_blocks == summary.miss_evicted_tokens == 0
    assert found[3]["hit_tokens"] == 192
    assert found[1]["miss_window_tokens"] > 0


def test_a_request_longer_than_the_groups_can_hold_is_rejected_by_itself(run: Replay) -> None:
    long = {"prompt_token_ids": [*range(3000)], "response_token_ids": [5, 6]}
    short = {"prompt_token_ids": [*range(100)], "response_token_ids": [5, 6]}
    summary, rows = run("gpt-oss-20b", FEW, [long, short], capacity_blocks=120, max_num_batched_tokens=256)
    assert [row["status"] for row in rows] == ["rejected", "ok"]
    assert summary.rejected_requests == 1


def test_the_ledger_of_groups_says_of_one_group_what_the_other_ledger_says(
    run: Replay, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, options = conversations(12, 5, seed=1), {"capacity_blocks": 30, "concurrency": 4}
    changes = {"num_hidden_layers": 2}
    summary, expected = run("llama-3.1-8b", changes, rows, **options)
    monkeypatch.setattr(driver, "make_ledger", group_ledger.GroupLedger)
    again, found = run("llama-3.1-8b", changes, rows, plain_steps=True, **options)
    for row, other in zip(found, expected, strict=True):
        assert row.items() >= other.items(), {k: (row[k], other[k]) for k in other if row[k] != other[k]}
    assert again.evicted_blocks == summary.evicted_blocks > 0
    assert again.working_set_blocks == summary.working_set_blocks


def test_a_policy_that_knows_the_future_is_refused_where_layers_keep_less(run: Replay) -> None:
    with pytest.raises(ValueError, match=r"belady knows the future of one group of blocks.*; allowed there: pol"):
        run("gpt-oss-20b", FEW, family(100, 50), policy="belady", capacity_blocks=100)


def test_the_fast_backend_refuses_policies_that_it_cannot_compile_over_groups(run: Replay) -> None:
    options = {"backend": "fast", "capacity_blocks": 100}
    with pytest.raises(ValueError, match=r"policy belady, which knows the future of one group, and .*; allowed: one c"):
        run("gpt-oss-20b", FEW, family(100, 50), policy="belady", **options)
    plain = "tests.eviction.user_policies:MostRecent"
    with pytest.raises(
        ValueError, match=r"MostRecent is not compiled; allowed over several cache groups: backend blockpool"
    ):
        run("gpt-oss-20b", FEW, family(100, 50), policy=plain, **options)


def test_the_fast_backend_names_those_that_serve_a_match_unit(run: Replay) -> None:
    options = {"backend": "fast", "engine_args": {"prefix_match_unit": 16}}
    with pytest.raises(ValueError, match="fast does not serve a prefix match unit; allowed: backend blockpool, engine"):
        run("jamba-1.5-mini", {"num_hidden_layers": 8}, family(100, 50), **options)


@pytest.mark.parametrize(
    ("name", "changes", "capacity", "engine_args"),
    [
        ("gpt-oss-20b", FEW | {"sliding_window": 40}, 100, {}),
        ("gpt-oss-20b", FEW | {"sliding_window": 40}, 100, {"prefix_cache_retention_interval": None}),
        ("jamba-1.5-mini", {"num_hidden_layers": 8}, 20, {}),
        ("jamba-1.5-mini", {"num_hidden_layers": 8}, 30, {"prefix_match_unit": 16}),
        ("jamba-1.5-mini", {"num_hidden_layers": 8}, 30, {"prefix_cache_retention_interval": None}),
        ("granite-4-h-small", MAMBA2 | {"mamba_d_state": 16}, 40, {}),
        ("granite-4-h-small", MAMBA2 | {"mamba_d_state": 8}, 57, {"prefix_cache_retention_interval": None}),
        ("granite-4-h-small", MAMBA2 | {"mamba_d_state": 8}, 57, {"prefix_cache_retention_interval": 96}),
        ("gemma-4-31b", {"num_hidden_layers": 6, "sliding_window": 32}, 300, {}),
        ("llama-4-scout", FEW | {"attention_chunk_size": 64}, 200, {}),
        ("mistral-7b-v0.1", {"num_hidden_layers": 2, "sliding_window": 64}, 60, {}),
    ],
)
def test_the_cache_manager_alone_and_the_compiled_cache_say_what_the_engine_says_at_concurrency_one(
    run: Replay, name: str, changes: dict[str, Any], capacity: int, engine_args: dict[str, Any]
) -> None:
    rows, found = conversations(12, 5, seed=1), {}
    for backend in ("engine", "blockpool") if "prefix_match_unit" in engine_args else ("engine", "blockpool", "fast"):
        options = {"capacity_blocks": capacity, "engine_args": engine_args, "max_num_batched_tokens": 256}
        summary, found[backend] = run(name, changes | CHAT, rows, backend=backend, **options)
        assert summary.evicted_blocks > 0
        assert summary.hit_tokens > 0
        assert summary.rejected_requests == 0
    expected = [{name: row[name] for name in SHARED} for row in found["engine"]]
    assert [{name: row[name] for name in SHARED} for row in found["blockpool"]] == expected
    assert found.get("fast", found["blockpool"]) == found["blockpool"]


def draw_layout(seed: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A model of groups drawn by a seed: its name, the changes to it, settings of a replay."""
    draw = random.Random(seed)
    size, layers = draw.choice((16, 32)), draw.randint(3, 8)
    kinds = draw.choices(("sliding_attention", "full_attention"), k=layers)
    kinds[:2] = "sliding_attention", "full_attention"
    state = {"linear_num_key_heads": 1, "linear_num_value_heads": draw.choice((1, 2)), "num_hidden_layers": 6}
    name, changes, blocks = draw.choice(
        (
            ("gpt-oss-20b", {"num_hidden_layers": layers, "layer_types": kinds, "sliding_window": 20}, 150),
            ("gpt-oss-20b", {"num_hidden_layers": layers, "layer_types": kinds, "sliding_window": 100}, 200),
            (
                "llama-4-scout",
                {"num_hidden_layers": max(4, layers), "attention_chunk_size": draw.choice((32, 96))},
                250,
            ),
            ("gemma-4-31b", {"num_hidden_layers": 6, "sliding_window": draw.choice((30, 64))}, 250),
            ("jamba-1.5-mini", {"num_hidden_layers": draw.choice((8, 16))}, 40),
            ("granite-4-h-small", MAMBA2 | {"mamba_d_state": draw.choice((8, 16))}, 50),
            ("qwen3-next-80b-a3b", state | {"full_attention_interval": draw.choice((2, 3))}, 40),
            ("qwen3-next-80b-a3b", state | {"full_attention_interval": draw.choice((2, 3))}, 40),
        )
    )
    retention: list[dict[str, Any]] = [{}, {"prefix_cache_retention_interval": None}]
    return (
        name,
        changes | CHAT,
        {
            "block_size": size,
            "capacity_blocks": round(blocks * draw.uniform(0.7, 1.5)),
            "max_num_batched_tokens": draw.choice((256, 300, 512)),
            "engine_args": draw.choice(retention),
        },
    )


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 60))])
def test_the_compiled_cache_says_of_any_layout_and_policy_what_the_cache_manager_says(run: Replay, seed: int) -> None:
    name, changes, options = draw_layout(seed)
    ranked = [policy for policy in (*POLICIES, *LITERATURE) if policy not in ("lru", "belady")]
    options["policy"] = "lru" if seed % 3 == 0 else "hybrid" if seed == 1 else ranked[seed % len(ranked)]
    rows = conversations(14, 5, seed)
    summary, expected = run(name, changes, rows, backend="blockpool", **options)
    compiled, found = run(name, changes, rows, backend="fast", **options)
    assert found == expected
    assert (compiled.working_set_blocks, compiled.evicted_blocks) == (
        summary.working_set_blocks,
        summary.evicted_blocks,
    )
    assert summary.hit_tokens > 0
    assert summary.rejected_requests < len(rows)


@pytest.mark.parametrize("policy", ["hybrid", "workload_aware"])
def test_policies_over_groups_hit_the_same_in_the_engine_and_over_the_cache_manager_alone(
    run: Replay, policy: str
) -> None:
    rows, found = conversations(12, 5, seed=1), {}
    for backend in ("engine", "blockpool"):
        options = {"capacity_blocks": 30, "policy": policy, "max_num_batched_tokens": 256}
        changes = {"num_hidden_layers": 8} | CHAT
        summary, found[backend] = run("jamba-1.5-mini", changes, rows, backend=backend, **options)
        assert summary.evicted_blocks > 0
        assert all(row["hit_tokens"] + names(row) == row["prompt_tokens"] for row in found[backend])
    assert [{name: row[name] for name in SHARED} for row in found["engine"]] == [
        {name: row[name] for name in SHARED} for row in found["blockpool"]
    ]


def test_a_fleet_of_engines_serves_several_groups_where_its_router_sees_requests_alone(run: Replay) -> None:
    rows, changes = conversations(12, 5, seed=1), FEW | {"sliding_window": 40} | CHAT
    options = {"capacity_blocks": 240, "replicas": 2, "concurrency": 8}
    summary, found = run("gpt-oss-20b", changes, rows, router="session", **options)
    assert all(row["hit_tokens"] + names(row) == row["prompt_tokens"] for row in found)
    alone, _ = run("gpt-oss-20b", changes, rows, capacity_blocks=120, concurrency=8)
    assert summary.capacity_tokens == 2 * alone.capacity_tokens
    assert summary.evicted_blocks == sum(one.evicted_blocks for one in summary.by_replica.values()) > 0
    for session in range(12):
        assert len({row["replica"] for row in found if row["session_id"] == session}) == 1
    with pytest.raises(ValueError, match="router kv_events looks at events, and layers of "):
        run("gpt-oss-20b", changes, rows, router="kv_events", **options)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "glm-4.6", "kimi-k2", "deepseek-v3.2"])
def test_latent_and_full_attention_are_served_by_the_fast_backend(run: Replay, name: str) -> None:
    _, rows = run(name, {}, family(5000, 3000), backend="fast", block_size=64)
    assert [row["hit_tokens"] for row in rows] == [0, 2944, 2944, 4992]


@pytest.mark.parametrize(
    ("upstream", "reason"), [({}, "2 cache groups"), (UNIFORM, "layers that do not see everything")]
)
def test_the_clock_is_by_what_windows_see_and_by_the_experts_that_are_read(
    run: Replay, tmp_path: Path, upstream: dict[str, Any], reason: str
) -> None:
    rows = [{"prompt_token_ids": list(range(300)), "output_length": 5, "finish_reason": "length", "timestamp": 0}]
    timed = {"latency_model": "roofline", "device": "l4", "concurrency": None, "engine_args": upstream}
    _, (found,) = run("gpt-oss-20b", FEW, rows, **timed)
    # Four layers of 64 heads of 64 values and 8 for keys and values; two see 128 positions. The router picks 4 of 32.
    matrices = 4 * (2880 * 64 * (64 + 8 + 8) + 64 * 64 * 2880 + 32 * 2880)
    expert = 4 * (3 * 2880 * 2880 + 3 * 2880)
    seen = [Attention(2 * 2 * 64 * 128, 2 * 2 * 8 * 64 * 2, reach) for reach in (None, Reach(128))]
    work = ModelWork(matrices, 201088 * 2880, tuple(seen), 2 * 4 * 2880, (Experts(expert, 32, 32, 4),))
    model = Roofline(work, "l4")
    steps = [(300, 0, True), *((1, 300 + place, True) for place in range(4))]
    times = [model.step_ms(load_of([step], model.reaches)) for step in steps]
    assert (found["first_token_ms"], found["end_ms"]) == (round(times[0], 3), pytest.approx(sum(times), abs=0.001))
    assert json.loads(next(tmp_path.glob("*/run/run.json")).read_text())["steps"] == f"plain: {reason}"


def test_an_engine_argument_that_vllm_lacks_is_refused(run: Replay) -> None:
    with pytest.raises(ValueError, match="engine argument 'retention' is unknown or set otherwise; allowed: "):
        run("gpt-oss-20b", FEW, family(100, 50), engine_args={"retention": 3})
