"""What models keep of their tokens, as vLLM's own classes say, and what is refused of a model."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from vllm.config import VllmConfig
from vllm.engine.arg_utils import EngineArgs
from vllm.model_executor.model_loader.utils import initialize_model
from vllm.model_executor.models import registry
from vllm.v1.engine.core import EngineCore

from tests.engine.conftest import MODEL
from vllm_sim.engine import meta_model
from vllm_sim.engine.executor import ReplayExecutor
from vllm_sim.engine.group_pool import GroupBlockPool
from vllm_sim.engine.kv_cache import is_plain, plain_layers
from vllm_sim.engine.meta_model import build_layers
from vllm_sim.engine.options import KEY
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.models.known import known_models, write_config
from vllm_sim.step_load import Reach

ROW = {"prompt_token_ids": [*range(100, 140)], "response_token_ids": [5, 6]}
Configure = Callable[..., VllmConfig]

# For each model its groups (layers, kind, tokens a block), and the block of the scheduler and of hashes.
SLIDING, CHUNKED, FULL, STATE = "sliding_window", "chunked_local_attention", "full_attention", "mamba"
GROUPS: dict[str, tuple[list[tuple[int, str, int]], int, int]] = {
    "gpt-oss-20b": ([(12, SLIDING, 16), (12, FULL, 16)], 16, 16),
    "gemma-3-27b": ([(9, SLIDING, 16)] * 4 + [(8, SLIDING, 16)] * 2 + [(10, FULL, 16)], 16, 16),
    "gemma-4-31b": ([(10, SLIDING, 16)] * 5 + [(10, FULL, 32)], 32, 16),
    "llama-3.1-8b": ([(32, FULL, 16)], 16, 16),
    "llama-4-scout": ([(12, CHUNKED, 16)] * 3 + [(12, FULL, 16)], 16, 16),
    "qwen3-next-80b-a3b": ([(12, STATE, 544)] * 3 + [(12, FULL, 544)], 544, 544),
    "deepseek-v3.2": ([(122, "mla_attention", 64)], 64, 64),
    "glm-4.6": ([(92, FULL, 16)], 16, 16),
    "glm-4.7-flash": ([(47, "mla_attention", 64)], 64, 64),
    "kimi-k2": ([(61, "mla_attention", 64)], 64, 64),
    "qwen3.6-27b": ([(16, STATE, 784)] * 3 + [(16, FULL, 784)], 784, 784),
    "qwen3.6-35b-a3b": ([(10, STATE, 1056)] * 3 + [(10, FULL, 1056)], 1056, 1056),
    "granite-4-h-small": ([(4, STATE, 528)] * 9 + [(4, FULL, 528)], 528, 528),
    "falcon-h1-7b": ([(44, FULL, 1568), (44, STATE, 1568)], 1568, 1568),
    "jamba-1.5-mini": ([(4, STATE, 80)] * 7 + [(4, FULL, 80)], 80, 80),
    "mimo-v2-flash": ([(9, FULL, 32)] + [(8, SLIDING, 16)] * 4 + [(7, SLIDING, 16)], 32, 16),
    "command-a": ([(16, SLIDING, 16)] * 3 + [(16, FULL, 16)], 16, 16),
    "mistral-7b-v0.1": ([(32, SLIDING, 16)], 16, 16),
    "olmo-3-7b": ([(8, SLIDING, 16)] * 3 + [(8, FULL, 16)], 16, 16),
}
FAST = ("gpt-oss-20b", "gemma-4-31b", "llama-4-scout", "qwen3.6-27b", "deepseek-v3.2", "granite-4-h-small")
"""The others are built by make test-all."""


def models(names: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


@pytest.fixture
def configure(environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configure:
    trace = tmp_path / "trace.jsonl"
    trace.write_text(json.dumps(ROW) + "\n")
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    # vLLM looks at each class in a process of its own, once for each installation; that takes 10 s.
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())

    def make(name: str, changes: dict[str, Any] | None = None, **arguments: Any) -> VllmConfig:
        path = write_config(name, tmp_path / f"{name}-{len(list(tmp_path.iterdir()))}")
        path.write_text(json.dumps(json.loads(path.read_text()) | (changes or {})))
        more = {"skip_tokenizer_init": True, "max_model_len": 4096, "enable_prefix_caching": True}
        return EngineArgs(model=str(path.parent), **(more | arguments)).create_engine_config()

    return make


def groups_of(config: VllmConfig) -> tuple[list[tuple[int, str, int]], int, int]:
    core = EngineCore(config, ReplayExecutor, log_stats=False)
    try:
        manager = core.scheduler.kv_cache_manager
        kinds = [kind for kind, _ in manager.kv_cache_event_metadata]
        groups = manager.kv_cache_config.kv_cache_groups
        found = [
            (len(group.layer_names), kind, group.kv_cache_spec.block_size)
            for group, kind in zip(groups, kinds, strict=True)
        ]
        return found, core.scheduler.block_size, manager.block_pool.hash_block_size
    finally:
        core.shutdown()


@pytest.mark.parametrize("name", models(GROUPS))
def test_groups_blocks_and_alignment_are_those_of_vllms_classes(configure: Configure, name: str) -> None:
    assert groups_of(configure(name)) == GROUPS[name]


@pytest.mark.parametrize("name", models(known_models()))
def test_a_built_model_has_as_many_parameters_as_are_published(
    configure: Configure, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    monkeypatch.setattr(
        meta_model, "initialize_model", lambda config: built.append(initialize_model(config)) or built[-1]
    )
    build_layers(configure(name))
    parameters = sum(weight.numel() for weight in built[0].parameters())
    assert round(parameters / 1e9, 1) == known_models()[name].parameters


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-8b"])
def test_what_is_said_of_a_plain_model_is_what_its_class_says(configure: Configure, name: str) -> None:
    config = configure(name)
    assert is_plain(config.model_config)
    said, built = plain_layers(config), build_layers(config)
    assert said.specs == built.specs
    assert said.work == built.work


# Parameters that a token passes, in thousands of millions, as their makers publish them; some count the embedding too.
ACTIVE = {
    "gpt-oss-20b": 3.6, "gpt-oss-120b": 5.1, "llama-4-scout": 17, "gemma-4-26b-a4b": 3.8, "deepseek-v3.2": 37,
    "glm-4.6": 32, "kimi-k2": 32, "granite-4-h-small": 9, "jamba-1.5-mini": 12, "mimo-v2-flash": 15,
}  # fmt: skip


@pytest.mark.parametrize("name", models(ACTIVE))
def test_a_token_passes_as_many_weights_as_are_published(configure: Configure, name: str) -> None:
    whole, fourth = (build_layers(configure(name, tensor_parallel_size=devices)).work for devices in (1, 4))
    active = whole.layer_weights + whole.output_weights + sum(one.weights * one.a_token for one in whole.experts)
    assert active / 1e9 == pytest.approx(ACTIVE[name], rel=0.055)
    for one, part in zip(whole.experts, fourth.experts, strict=True):
        assert part[1:] == one[1:]
        assert part.weights == pytest.approx(one.weights / 4, rel=1e-3)  # a bias is not shared


def test_layers_see_what_their_kind_says(configure: Configure) -> None:
    for name, reach in (("gpt-oss-20b", Reach(128)), ("llama-4-scout", Reach(8192, is_chunk=True))):
        full, near = build_layers(configure(name)).work.attention
        assert (full.reach, near.reach) == (None, reach)
        layers = [layers for layers, kind, _ in GROUPS[name][0] if kind != FULL]
        assert near.operations_a_pair / full.operations_a_pair == sum(layers) / layers[0]
        assert near.bytes_a_position / full.bytes_a_position == sum(layers) / layers[0]


def test_states_are_moved_with_each_request(configure: Configure) -> None:
    # 48 layers of 48 x 128 x 128 values in 32 bits, and the last three inputs of 10,240 convolutions in 16.
    work = build_layers(configure("qwen3.6-27b")).work
    assert work.state_bytes == 48 * (48 * 128 * 128 * 4 + 3 * 10_240 * 2)


def test_the_exported_model_is_plain(configure: Configure) -> None:
    config = EngineArgs(model=str(MODEL), skip_tokenizer_init=True, max_model_len=1024).create_engine_config()
    assert is_plain(config.model_config)


def test_weights_may_be_quantised_but_the_cache_may_not(configure: Configure) -> None:
    weights = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    assert groups_of(configure("gpt-oss-20b", {"quantization_config": weights})) == GROUPS["gpt-oss-20b"]
    with pytest.raises(ValueError, match="kv cache dtype is 'fp8'; allowed for this model: auto, float16, bfloat16"):
        groups_of(configure("gpt-oss-20b", kv_cache_dtype="fp8"))
    kind = {"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": False, "symmetric": True}
    scheme = {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {}, "kv_cache_scheme": kind}
    with pytest.raises(ValueError, match=r"kv_cache_scheme quantises its cache|kv cache dtype is 'fp8"):
        groups_of(configure("llama-4-scout", {"quantization_config": scheme}))


def test_a_server_puts_several_groups_under_the_policy_that_it_names(configure: Configure) -> None:
    config = configure("gpt-oss-20b", additional_config={KEY: {"eviction": "lfu"}})
    core = EngineCore(config, ReplayExecutor, log_stats=False)
    try:
        assert type(core.scheduler.kv_cache_manager.block_pool) is GroupBlockPool
    finally:
        core.shutdown()


def test_a_block_size_that_no_kernel_takes_is_refused(configure: Configure) -> None:
    with pytest.raises(ValueError, match=r"block size is 8; allowed by the attention backends: FLASH_ATTN: .*16"):
        groups_of(configure("gpt-oss-20b", block_size=8))
    assert groups_of(configure("kimi-k2", block_size=16)) == ([(61, "mla_attention", 16)], 16, 16)


def test_a_class_that_cannot_be_built_is_refused_with_the_reason(configure: Configure) -> None:
    with pytest.raises(ValueError, match=r"GptOssForCausalLM cannot be built without kernels: \w+: "):
        groups_of(configure("gpt-oss-20b", {"num_attention_heads": 63}))
