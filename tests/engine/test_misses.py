"""A prompt that the trace does not have."""

import pytest
from vllm.entrypoints.llm import LLM
from vllm.exceptions import VLLMNotFoundError
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest

from tests.engine.conftest import Start, generate

ROWS = [{"prompt": "hehe", "response": "hahaha!"}, {"prompt": "other", "response": "another"}]
EOT = 128009


@pytest.fixture
def llm(start: Start) -> LLM:
    return start(ROWS)


def test_a_miss_fails_the_call_and_shows_the_prompt_and_the_way_out(llm: LLM) -> None:
    with pytest.raises(VLLMNotFoundError) as error:
        generate(llm, ["Never recorded"])
    message = str(error.value)
    assert "is not in the trace" in message
    assert "(2 different prompts)" in message
    assert "It begins with '<|begin_of_text|>Never recorded'." in message
    assert '"on_miss": "synthesize"' in message


def test_a_miss_given_as_token_ids_is_shown_as_text(llm: LLM) -> None:
    with pytest.raises(VLLMNotFoundError, match=r"This prompt of 4 tokens .* begins with '<\|begin_of_text\|>hehehe'"):
        generate(llm, [{"prompt_token_ids": [128000, 383, 383, 383]}])


def test_a_prompt_that_only_begins_like_a_recorded_one_is_a_miss(llm: LLM) -> None:
    for token_ids in ([128000, 383], [128000, 383, 383, 383], [383, 383]):
        with pytest.raises(VLLMNotFoundError):
            generate(llm, [{"prompt_token_ids": token_ids}])


def test_one_miss_in_a_list_fails_the_call_and_the_next_call_works(llm: LLM) -> None:
    with pytest.raises(VLLMNotFoundError):
        generate(llm, ["hehe", "Never recorded", "other"])
    assert not llm.llm_engine.has_unfinished_requests()
    assert [output.text for output in generate(llm, ["hehe", "other"])] == ["hahaha!", "another"]


def test_synthesize_answers_a_miss_up_to_max_tokens_with_the_same_tokens_each_time(start: Start) -> None:
    llm = start(ROWS, {"on_miss": "synthesize"})
    prompts = ["Never recorded", "hehe", "Not recorded either"]
    first, known, second = generate(llm, prompts, max_tokens=600)
    assert (known.text, known.finish_reason) == ("hahaha!", "stop")
    assert {(len(output.token_ids), output.finish_reason) for output in (first, second)} == {(600, "length")}
    assert first.token_ids != second.token_ids
    assert EOT not in first.token_ids
    again = start(ROWS, {"on_miss": "synthesize"})
    assert [o.token_ids for o in generate(again, prompts, max_tokens=600)] == [
        first.token_ids,
        known.token_ids,
        second.token_ids,
    ]


def test_a_miss_that_reaches_the_executor_ends_at_once_with_an_error_in_the_log(
    llm: LLM, caplog: pytest.LogCaptureFixture
) -> None:
    core = llm.llm_engine.engine_core
    params = SamplingParams(max_tokens=50)
    params.update_from_generation_config({}, EOT)
    core.add_request(
        EngineCoreRequest(
            request_id="lost",
            prompt_token_ids=[1, 2, 3],
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
    )
    outputs = [output for _ in range(5) for output in core.get_output().outputs]
    assert [token for output in outputs for token in output.new_token_ids] == [EOT]
    assert [str(output.finish_reason) for output in outputs] == ["stop"]
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert errors == ["Request lost has a prompt that is not in the trace: it ends at once."]
    assert generate(llm, ["hehe"])[0].text == "hahaha!"
