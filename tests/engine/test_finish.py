"""When an answer ends, which recorded answer is given, and what requests share."""

import pytest
from vllm.entrypoints.llm import LLM
from vllm.sampling_params import SamplingParams

from tests.engine.conftest import Start, generate, prompts_of

EOT = 128009
WORDS = "one two three four five six seven eight"
ROWS = [
    {"prompt": "words", "response": WORDS},
    {"prompt": "cut", "response": "it was cut", "finish_reason": "length"},
    {"prompt": "cut once", "response": "this one was cut", "finish_reason": "length"},
    {"prompt": "cut once", "response": "this one was not"},
    {"prompt": "thrice", "response": "first"},
    {"prompt": "other", "response": "other"},
    {"prompt": "thrice", "response": "second"},
    {"prompt": "thrice", "response": "third"},
    {"prompt": "n", "response": "a"},
    {"prompt": "n", "response": "b"},
    {"prompt": "n", "response": "c"},
    {"prompt": "length 40", "output_length": 40},
    {"prompt": "length 40 cut", "output_length": 40, "finish_reason": "length"},
    {"prompt": "length 0", "output_length": 0},
]


@pytest.fixture(scope="module")
def llm(start: Start) -> LLM:
    return start(ROWS)


def test_a_whole_answer_ends_with_stop_and_one_end_token(llm: LLM) -> None:
    output = generate(llm, ["words"])[0]
    assert (output.text, output.finish_reason, output.stop_reason) == (WORDS, "stop", None)
    assert list(output.token_ids).count(EOT) == 1


def test_max_tokens_cuts_with_length(llm: LLM) -> None:
    whole = generate(llm, ["words"])[0].token_ids
    for max_tokens in (1, 3, len(whole) - 1):
        output = generate(llm, ["words"], max_tokens=max_tokens)[0]
        assert (output.token_ids, output.finish_reason) == (whole[:max_tokens], "length")
    assert generate(llm, ["words"], max_tokens=len(whole))[0].finish_reason == "stop"


def test_an_answer_that_was_cut_ends_with_length_and_without_an_end_token(llm: LLM) -> None:
    output = generate(llm, ["cut"])[0]
    assert (output.text, output.finish_reason) == ("it was cut", "length")
    assert EOT not in output.token_ids
    assert generate(llm, ["cut"], max_tokens=1)[0].finish_reason == "length"


def test_of_two_answers_to_one_prompt_only_the_cut_one_ends_with_length(llm: LLM) -> None:
    outputs = [generate(llm, ["cut once"])[0] for _ in range(4)]
    expected = [("this one was cut", "length"), ("this one was not", "stop")]
    assert [(output.text, output.finish_reason) for output in outputs] == expected * 2


def test_a_stop_string_ends_the_answer_before_it(llm: LLM) -> None:
    output = generate(llm, ["words"], stop=["five", "seven"])[0]
    assert (output.text, output.finish_reason, output.stop_reason) == ("one two three four ", "stop", "five")
    kept = generate(llm, ["words"], stop="ree f", include_stop_str_in_output=True)[0]
    assert kept.text == "one two three f"


def test_a_stop_token_ends_the_answer(llm: LLM) -> None:
    third = generate(llm, ["words"])[0].token_ids[2]
    output = generate(llm, ["words"], stop_token_ids=[third])[0]
    assert (len(output.token_ids), output.finish_reason, output.stop_reason) == (3, "stop", third)


def test_ignore_eos_goes_on_after_the_recorded_end_and_is_the_same_each_time(llm: LLM) -> None:
    recorded = list(generate(llm, ["words"])[0].token_ids)
    outputs = [generate(llm, ["words"], ignore_eos=True, max_tokens=1000)[0] for _ in range(2)]
    assert outputs[0].token_ids == outputs[1].token_ids
    assert recorded[-1] == EOT
    assert list(outputs[0].token_ids[: len(recorded)]) == recorded
    assert list(outputs[0].token_ids).count(EOT) == 1
    assert {(len(output.token_ids), output.finish_reason) for output in outputs} == {(1000, "length")}
    assert len(set(outputs[0].token_ids[len(recorded) :])) > 900


def test_ignore_eos_goes_on_after_an_answer_that_was_cut(llm: LLM) -> None:
    output = generate(llm, ["cut"], ignore_eos=True, max_tokens=50)[0]
    assert output.text.startswith("it was cut")
    assert (len(output.token_ids), output.finish_reason) == (50, "length")


def test_min_tokens_goes_on_after_the_recorded_end_and_then_stops(llm: LLM) -> None:
    recorded = list(generate(llm, ["words"])[0].token_ids)
    output = generate(llm, ["words"], min_tokens=30)[0]
    assert list(output.token_ids[: len(recorded) - 1]) == recorded[:-1]
    assert (len(output.token_ids), output.token_ids[-1], output.finish_reason) == (31, EOT, "stop")
    assert list(generate(llm, ["words"], min_tokens=len(recorded) - 1)[0].token_ids) == recorded


def test_min_tokens_goes_on_after_an_answer_that_was_cut(llm: LLM) -> None:
    output = generate(llm, ["cut"], min_tokens=30)[0]
    assert output.text.startswith("it was cut")
    assert (len(output.token_ids), output.finish_reason) == (30, "length")


def test_answers_to_one_prompt_come_in_recorded_order_and_then_start_over(llm: LLM) -> None:
    outputs = [generate(llm, [prompt])[0].text for prompt in ("thrice", "other", "thrice", "thrice", "thrice")]
    assert outputs == ["first", "other", "second", "third", "first"]
    together = generate(llm, ["thrice", "thrice", "other", "thrice"])
    assert [output.text for output in together] == ["second", "third", "other", "first"]


def test_n_gives_successive_answers(llm: LLM) -> None:
    (output,) = llm.generate(["n"], SamplingParams(n=3, max_tokens=100), use_tqdm=False)
    assert [completion.text for completion in output.outputs] == ["a", "b", "c"]


def test_a_request_that_is_aborted_leaves_the_others_alone(llm: LLM) -> None:
    engine = llm.llm_engine
    for request_id in ("aborted", "kept"):
        engine.add_request(request_id, "words", SamplingParams(max_tokens=100))
    texts = {output.request_id: output.outputs[0].text for output in engine.step() + engine.step()}
    engine.abort_request(["aborted"])
    while engine.has_unfinished_requests():
        texts |= {output.request_id: output.outputs[0].text for output in engine.step()}
    assert texts["kept"] == WORDS
    assert WORDS.startswith(texts["aborted"])
    assert texts["aborted"] != WORDS
    assert generate(llm, ["words"])[0].text == WORDS


def test_output_length_counts_every_generated_token(llm: LLM) -> None:
    whole, cut, none = generate(llm, ["length 40", "length 40 cut", "length 0"])
    assert (len(whole.token_ids), whole.token_ids[-1], whole.finish_reason) == (40, EOT, "stop")
    assert (len(cut.token_ids), cut.finish_reason) == (40, "length")
    assert EOT not in cut.token_ids
    assert (list(none.token_ids), none.finish_reason) == ([EOT], "stop")


# From here on each test starts an engine of its own, and `llm` is not the latest any more.


def test_the_models_length_cuts_with_length(start: Start) -> None:
    (output,) = generate(start(ROWS[:1], max_model_len=6), ["words"], max_tokens=None)
    assert (output.text, output.finish_reason) == ("one two three four", "length")


@pytest.mark.parametrize("block_size", [2, 8, 64])
def test_prompts_of_hash_ids_share_exactly_their_common_ids(start: Start, block_size: int) -> None:
    ids = [[1, 2, 3], [1, 2, 4], [1, 5, 3], [2, 1, 3], [1, 2, 3, 9]]
    rows = [{"hash_ids": i, "input_length": 64 * len(i), "hash_block_size": 64, "output_length": 9} for i in ids]
    rows.append({"hash_ids": [1, 2], "input_length": 150, "hash_block_size": 64, "output_length": 9})
    llm = start(rows, block_size=block_size)
    params = SamplingParams(max_tokens=100)
    outputs = [llm.generate(prompt, params, use_tqdm=False)[0] for prompt in prompts_of(llm)]
    assert [len(output.prompt_token_ids or []) for output in outputs] == [192, 192, 192, 192, 256, 150]
    assert [output.num_cached_tokens for output in outputs] == [0, 128, 64, 0, 192, 128]
    assert {len(output.outputs[0].token_ids) for output in outputs} == {9}
    again = llm.generate(prompts_of(llm)[0], params, use_tqdm=False)[0]
    assert again.num_cached_tokens == 192 - block_size  # the last token is never a hit
