"""The tokens that the trace layer computes for a prompt are those of vLLM's own renderer."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm.entrypoints.llm import LLM
from vllm.sampling_params import SamplingParams

from tests.engine.conftest import MODEL, Start
from vllm_sim.trace.vocabulary import Vocabulary

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place: \u00fc, <b>, 'quoted' & \"double\"",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": '{"place": "Lima \u2600", "days": [1, 2.5, null, true]}'},
}
USER = {"role": "user", "content": "How is the weather in Lima?"}
SYSTEM = {"role": "system", "content": "  Answer shortly.\n"}

TEXTS = [
    "hehe",
    " leading and trailing ",
    "\U0001f937\U0001f3fd\u200d\u2640\ufe0f \u00fcn\u00ef\r\nc\u00f6d\u00e9 \x00",
    "<|begin_of_text|>written out<|eot_id|>",
    "<|start_header_id|>user<|end_header_id|>\n\nhello",
    "\ufffd.",
    "1234567890 +-*/ \t\t\n\n\n   x",
]
CHATS: dict[str, dict[str, Any]] = {
    "user": {"messages": [USER]},
    "system": {"messages": [SYSTEM, USER]},
    "system in the middle": {"messages": [USER, SYSTEM, USER]},
    "several turns": {"messages": [SYSTEM, USER, {"role": "assistant", "content": "Warm."}, USER]},
    "developer": {"messages": [{"role": "developer", "content": "Answer shortly."}, USER]},
    "system and developer": {"messages": [SYSTEM, {"role": "developer", "content": "In Spanish."}, USER]},
    "developer in the middle": {"messages": [USER, {"role": "developer", "content": "In Spanish."}, USER]},
    "list of parts": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Answer"}, {"type": "text", "text": " shortly"}]},
            {"role": "user", "content": [{"type": "text", "text": "How is"}, {"type": "text", "text": "the weather?"}]},
        ]
    },
    "empty content": {"messages": [{"role": "user", "content": ""}]},
    "name": {"messages": [USER | {"name": "Ada"}]},
    "special tokens in a message": {"messages": [{"role": "user", "content": "a<|eot_id|>b"}]},
    "tools": {"messages": [USER], "tools": [TOOL]},
    "tools and system": {"messages": [SYSTEM, USER], "tools": [TOOL, TOOL]},
    "tools and developer": {"messages": [{"role": "developer", "content": "Shortly."}, USER], "tools": [TOOL]},
    "tool call": {
        "messages": [
            USER,
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "call_1", "content": "warm"},
        ],
        "tools": [TOOL],
    },
    "tool call with text, answered in parts": {
        "messages": [
            SYSTEM,
            USER,
            {"role": "assistant", "content": "I look.", "tool_calls": [CALL, CALL | {"id": "call_2"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "warm"}]},
            {"role": "tool", "tool_call_id": "call_2", "content": "warm"},
            {"role": "assistant", "content": "Warm."},
            {"role": "user", "content": "Thanks"},
        ],
        "tools": [TOOL],
    },
    "tool call without arguments": {
        "messages": [
            USER,
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "now", "arguments": ""}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": "noon"},
        ],
    },
    "reasoning": {"messages": [USER, {"role": "assistant", "content": "Warm.", "reasoning": "Peru"}, USER]},
    "template options": {"messages": [USER], "chat_template_kwargs": {"bos_token": "", "unknown": 1}},
    "long": {"messages": [{"role": "user", "content": "word " * 2000}]},
}
ROWS = [{"prompt": text, "response": f"text {i}"} for i, text in enumerate(TEXTS)] + [
    chat | {"response": f"chat {name}"} for name, chat in CHATS.items()
]
WHOLE = SamplingParams(max_tokens=100)


@pytest.fixture(scope="module")
def llm(start: Start) -> LLM:
    return start(ROWS)


@pytest.mark.parametrize("row", range(len(TEXTS)), ids=TEXTS)
def test_the_tokens_of_a_text_are_those_of_the_renderer(llm: LLM, row: int) -> None:
    (output,) = llm.generate(TEXTS[row], WHOLE, use_tqdm=False)
    assert output.prompt_token_ids == llm.llm_engine.model_executor._answers.trace.prompt(row).tolist()
    assert output.outputs[0].text == f"text {row}"


@pytest.mark.parametrize("name", CHATS)
def test_the_tokens_of_a_chat_are_those_of_the_renderer(llm: LLM, name: str) -> None:
    (output,) = llm.chat(sampling_params=WHOLE, use_tqdm=False, **CHATS[name])
    row = len(TEXTS) + list(CHATS).index(name)
    assert output.prompt_token_ids == llm.llm_engine.model_executor._answers.trace.prompt(row).tolist()
    assert output.outputs[0].text == f"chat {name}"


@settings(max_examples=50, deadline=None, derandomize=True)
@given(text=st.text(max_size=60))
def test_the_tokens_of_any_text_are_those_of_the_renderer(llm: LLM, vocabulary: Vocabulary, text: str) -> None:
    (rendered,) = llm.llm_engine.renderer.render_cmpl([{"prompt": text}])
    assert vocabulary.encode_prompts([text]) == [rendered["prompt_token_ids"]]


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary(MODEL)


def test_the_end_tokens_are_those_of_the_engine(llm: LLM, vocabulary: Vocabulary) -> None:
    params = SamplingParams()
    params.update_from_generation_config(
        llm.llm_engine.input_processor.generation_config_fields, llm.get_tokenizer().eos_token_id
    )
    assert vocabulary.end_token_ids == params.all_stop_token_ids
    assert vocabulary.eos_token_id == llm.get_tokenizer().eos_token_id
