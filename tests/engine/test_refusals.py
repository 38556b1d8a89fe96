"""What a simulator cannot honour is refused by name: parameters of a request, and configurations at the start."""

from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.entrypoints.llm import LLM
from vllm.exceptions import VLLMValidationError
from vllm.inputs import TokensPrompt
from vllm.sampling_params import BeamSearchParams, SamplingParams, StructuredOutputsParams

from tests.engine.conftest import MODEL, Start, generate
from vllm_sim.engine import refusals
from vllm_sim.engine.contact import field
from vllm_sim.engine.plugin import TRACE_VARIABLE
from vllm_sim.engine.refusals import REFUSALS, Refusal, refuse_unsupported
from vllm_sim.engine.requests import _NEEDS_LOGITS, check_parameters
from vllm_sim.vllm_version import VersionError

ROWS = [{"prompt": "hehe", "response": "hahaha!"}]


@pytest.fixture(scope="module")
def llm(start: Start) -> LLM:
    return start(ROWS)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"logprobs": 0}, "logprobs"),
        ({"logprobs": 3}, "logprobs"),
        ({"prompt_logprobs": 0}, "prompt_logprobs"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"logprob_token_ids": [5]}, "logprob_token_ids"),
        ({"bad_words": ["haha"]}, "bad_words"),
        ({"allowed_token_ids": [5, 6]}, "allowed_token_ids"),
        ({"logit_bias": {5: 1.0}}, "logit_bias"),
        ({"structured_outputs": StructuredOutputsParams(regex="h+")}, "structured_outputs"),
        ({"structured_outputs": StructuredOutputsParams(json_object=True)}, "response_format"),
    ],
)
def test_a_parameter_that_needs_logits_is_refused_by_name(llm: LLM, parameters: dict[str, Any], name: str) -> None:
    with pytest.raises(VLLMValidationError, match=f"vllm_sim cannot honour {name}: ") as error:
        generate(llm, ["hehe"], **parameters)
    assert error.value.parameter == name
    assert generate(llm, ["hehe"])[0].text == "hahaha!"


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"thinking_token_budget": 0}, "thinking_token_budget"),
        ({"thinking_token_budget": 9}, "thinking_token_budget"),
        ({"trace_decode_token_ids": [5]}, "trace_decode_token_ids"),
        ({"prompt_logprob_token_ids": [[5]]}, "prompt_logprob_token_ids"),
    ],
)
def test_a_parameter_that_upstream_takes_with_other_options_only_is_refused_by_name(
    parameters: dict[str, Any], name: str
) -> None:
    with pytest.raises(VLLMValidationError, match="vllm_sim cannot honour") as error:
        check_parameters(SamplingParams(**parameters))
    assert error.value.parameter == name


def test_beam_search_is_refused_by_name(llm: LLM) -> None:
    with pytest.raises(VLLMValidationError, match="cannot honour use_beam_search"):
        llm.beam_search([TokensPrompt(prompt_token_ids=[128000, 383, 383])], BeamSearchParams(2, 5))


def test_prompt_embeddings_are_refused(llm: LLM) -> None:
    with pytest.raises((ValueError, VLLMValidationError), match=r"prompt.embeds"):  # the second since vLLM 0.33
        generate(llm, [{"prompt_embeds": torch.zeros(3, 2048)}])


def test_parameters_of_sampling_are_accepted_and_change_nothing(llm: LLM) -> None:
    output = generate(
        llm,
        ["hehe"],
        temperature=2.0,
        top_p=0.1,
        top_k=1,
        min_p=0.5,
        seed=7,
        presence_penalty=2.0,
        frequency_penalty=-2.0,
        repetition_penalty=1.5,
    )[0]
    assert output.text == "hahaha!"


@pytest.fixture
def configure(environment: pytest.MonkeyPatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the configuration that a start would make."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text('{"prompt": "hehe", "response": "hahaha!"}\n')
    monkeypatch.setenv(TRACE_VARIABLE, str(trace))
    return lambda **arguments: EngineArgs(model=str(MODEL), max_model_len=1024, **arguments).create_engine_config()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"enable_lora": True}, "LoRA"),
        (
            {"speculative_config": {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3}},
            "speculative decoding",
        ),
        ({"pipeline_parallel_size": 2}, "pipeline parallelism"),
        ({"prefill_context_parallel_size": 2}, "context parallelism"),
        ({"runner": "pooling"}, "a pooling model"),
        ({"hf_overrides": {"is_encoder_decoder": True}}, "an encoder-decoder model"),
        ({"watermark_config": {"key": 1}}, "watermarking"),
        ({"enable_prompt_embeds": True}, "prompt embeddings"),
        (
            {"logits_processors": ["vllm.v1.sample.logits_processor.builtin:MinPLogitsProcessor"]},
            "custom logits processors",
        ),
        (
            {"kv_transfer_config": {"kv_connector": "ExampleConnector", "kv_role": "kv_both"}},
            "the KV connector Example",
        ),
        ({"kv_cache_dtype": "int8_per_token_head"}, "a KV cache of type int8_per_token_head"),
        ({"kv_cache_dtype": "turboquant_4bit_nc"}, "a KV cache of type turboquant_4bit_nc"),
    ],
)
def test_a_configuration_that_would_not_be_the_real_one_is_refused_by_name(
    configure: Any, arguments: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=f"vllm_sim cannot simulate .*{name}"):
        configure(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"data_parallel_size": 2},
        {"enable_prefix_caching": False},
        {"scheduling_policy": "priority"},
        {"kv_cache_dtype": "fp8"},
        {"hf_overrides": {"layer_types": ["full_attention"] * 16}},
        {"hf_overrides": {"layer_types": ["sliding_attention"] * 16, "sliding_window": 128}},
    ],
)
def test_a_configuration_that_can_be_simulated_is_not_refused(configure: Any, arguments: dict[str, Any]) -> None:
    config = configure(**arguments)
    assert config.parallel_config.distributed_executor_backend == "vllm_sim.engine.executor.ReplayExecutor"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_mis": "error"}, "unknown option 'on_mis' of vllm_sim; allowed: .*on_miss.*on_inexact"),
        ({"on_miss": "ignore"}, "option on_miss of vllm_sim is 'ignore'; allowed: error, synthesize"),
        ({"on_inexact": None}, "option on_inexact of vllm_sim is None; allowed: error, warn"),
        ("error", r"additional_config\[\"vllm_sim\"\] is 'error'; allowed: an object"),
    ],
)
def test_an_unknown_option_names_what_is_allowed(configure: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(additional_config={"vllm_sim": options})


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.path)
def test_every_field_that_is_looked_at_is_in_the_installed_vllm(configure: Any, refusal: Refusal) -> None:
    value = reduce(field, refusal.path.split("."), configure())
    assert refusal.refuses(value) is False


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.path)
def test_a_field_that_upstream_renames_is_an_error_and_not_accepted(
    configure: Any, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    config = configure()
    renamed = refusal._replace(path=refusal.path + "_renamed")
    monkeypatch.setattr(refusals, "REFUSALS", (renamed,))
    with pytest.raises(VersionError, match=f"has no .*{refusal.path.rpartition('.')[2]}_renamed, which vllm_sim reads"):
        refuse_unsupported(config)


@pytest.mark.parametrize("parameter", _NEEDS_LOGITS)
def test_every_parameter_that_is_looked_at_is_in_the_installed_vllm(parameter: str) -> None:
    assert field(SamplingParams(), parameter) in (None, [], {})


def test_options_of_others_are_left_alone(configure: Any) -> None:
    assert configure(additional_config={"another": {"x": 1}}).additional_config == {"another": {"x": 1}}
