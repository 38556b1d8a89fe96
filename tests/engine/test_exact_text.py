"""A response comes back byte for byte, and token ids come back as ids."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from vllm.entrypoints.llm import LLM
from vllm.sampling_params import RequestOutputKind, SamplingParams

from tests.engine.conftest import Start, generate

EOT = 128009
PIECES = [
    "\U0001f937\U0001f3fd\u200d\u2640\ufe0f",
    "\U0001f1e9\U0001f1ea",
    "e\u0301",
    "\r\n",
    "\r",
    "\x00",
    "  ",
    "\t",
    "\ufffd",
    "\ufeff",
    "<|eot_id|>",
    "<|begin_of_text|>",
    "<|eot_id",
    "\u0e01\u0e33",
    "\U0001d54f",
    " the",
    "\u00a0",
    "\u2028",
]
TEXTS = st.lists(st.text(max_size=6) | st.sampled_from(PIECES), max_size=8).map("".join)


def texts_of(llm: LLM, count: int) -> list[str]:
    return [output.text for output in generate(llm, [f"prompt {i}" for i in range(count)])]


# No shrinking: an example costs an engine.
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(texts=st.lists(TEXTS.filter(lambda text: not text.endswith("\ufffd")), min_size=1, max_size=50))
def test_any_text_comes_back_byte_for_byte(start: Start, texts: list[str]) -> None:
    llm = start([{"prompt": f"prompt {i}", "response": text} for i, text in enumerate(texts)])
    assert texts_of(llm, len(texts)) == texts


def test_texts_known_to_be_difficult_come_back(start: Start) -> None:
    texts = ["", " ", "\n", "  both ends \n", "\x00", "a\r\nb\rc", "<|eot_id|>", "x<|begin_of_text|>y<|eot_id|>"]
    outputs = generate(
        start([{"prompt": f"prompt {i}", "response": text} for i, text in enumerate(texts)]),
        [f"prompt {i}" for i in range(len(texts))],
    )
    assert [output.text for output in outputs] == texts
    assert {output.finish_reason for output in outputs} == {"stop"}
    assert {output.token_ids[-1] for output in outputs} == {EOT}


def test_the_pieces_of_a_stream_add_up_to_the_text(start: Start) -> None:
    text = "".join(PIECES) + "."
    engine = start([{"prompt": "p", "response": text}]).llm_engine
    engine.add_request("0", "p", SamplingParams(max_tokens=16000, output_kind=RequestOutputKind.DELTA))
    pieces = []
    while engine.has_unfinished_requests():
        pieces += [output.outputs[0].text for output in engine.step()]
    assert len(pieces) > len(PIECES)
    assert "".join(pieces) == text


def test_a_response_of_8000_tokens_is_whole(start: Start) -> None:
    text = "".join(f" word{i}" for i in range(3000))
    output = generate(start([{"prompt": "p", "response": text}]), ["p"])[0]
    assert len(output.token_ids) > 8000
    assert output.text == text


@pytest.mark.parametrize(
    ("ids", "given"),
    [
        ([9906, 1917, EOT], [9906, 1917, EOT]),
        ([9906, 1917], [9906, 1917, EOT]),  # a list without an end token gets one
        ([9906, 128001], [9906, 128001]),  # another of the model's end tokens
        ([128000, 128006, 9906, EOT], [128000, 128006, 9906, EOT]),  # special tokens that do not end
        ([], [EOT]),
        ([220, 220, 220, EOT], [220, 220, 220, EOT]),  # no tokenizer would split blanks in this way
    ],
)
def test_response_token_ids_come_back_as_ids(start: Start, ids: list[int], given: list[int]) -> None:
    output = generate(start([{"prompt": "p", "response_token_ids": ids}]), ["p"])[0]
    assert list(output.token_ids) == given
    assert output.finish_reason == "stop"


def test_a_text_that_upstream_cannot_give_back_stops_the_start_with_file_and_line(start: Start) -> None:
    rows = [{"prompt": "a", "response": "fine"}, {"prompt": "b", "response": "half a character \ufffd"}]
    with pytest.raises(ValueError, match=r"\.jsonl, line 2: vLLM's detokeniser"):
        start(rows)
    with pytest.raises(ValueError, match=r"\.jsonl, line 2: vLLM's detokeniser"):  # what was noted counts too
        start(rows)


def test_a_prompt_that_ends_in_half_a_character_swallows_the_answer_and_is_refused_too(start: Start) -> None:
    with pytest.raises(ValueError, match=r"\.jsonl, line 1: vLLM's detokeniser"):
        start([{"prompt": "half a character \ufffd", "response": "fine"}])


def test_with_on_inexact_warn_such_a_text_is_a_warning(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"prompt": "b", "response": "half a character \ufffd"}, {"prompt": "a", "response": "fine"}]
    llm = start(rows, {"on_inexact": "warn"})
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "detokeniser" in r.getMessage()]
    assert len(warnings) == 1
    assert ".jsonl, line 1: " in warnings[0]
    assert generate(llm, ["a"])[0].text == "fine"


def test_a_token_outside_the_vocabulary_stops_the_start_with_the_line(start: Start) -> None:
    with pytest.raises(ValueError, match=r"line 2: response token 128256 is too large; allowed: 0 to 128255"):
        start([{"prompt": "a", "response": "b"}, {"prompt": "b", "response_token_ids": [1, 128256]}])
    with pytest.raises(ValueError, match=r"line 1: prompt token 999999 is too large"):
        start([{"prompt_token_ids": [999999], "response": "b"}])
