"""What is said of a response by its tokens is what vLLM's own detokeniser does."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm.config import ModelConfig
from vllm.tokenizers import cached_tokenizer_from_config

from tests.engine.test_exact_text import TEXTS
from tests.serving import MODEL, write_trace
from vllm_sim.engine import exactness
from vllm_sim.engine.answers import Answers
from vllm_sim.engine.exactness import SAMPLE, check_exact

HALF = "half a character \ufffd"


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return ModelConfig(model=str(MODEL))


def answers_of(folder: Path, rows: list[dict]) -> Answers:
    return Answers(write_trace(folder / "trace.jsonl", rows), str(MODEL))


PROMPTS = TEXTS.filter(bool).map(lambda text: {"prompt": text}) | st.lists(
    st.integers(0, 128255), min_size=1, max_size=12
).map(lambda ids: {"prompt_token_ids": ids})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(PROMPTS, TEXTS), min_size=1, max_size=30))
def test_what_its_tokens_say_comes_back(tmp_path: Path, config: ModelConfig, rows: list[tuple[dict, str]]) -> None:
    tokenizer = cached_tokenizer_from_config(config)
    decode = exactness._byte_decoder(tokenizer)
    assert decode is not None
    answers = answers_of(tmp_path, [prompt | {"response": text} for prompt, text in rows])
    for row, (_, text) in enumerate(rows):
        if exactness._is_decoded(answers, decode, row, text):
            assert exactness._given_back(answers, tokenizer, row) == text


def test_whole_texts_need_no_detokeniser(tmp_path: Path, config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    given_back = exactness._given_back
    monkeypatch.setattr(
        exactness,
        "_given_back",
        lambda answers, tokenizer, row: [seen.append(row), given_back(answers, tokenizer, row)][1],
    )
    rows = [{"prompt": f"{i} is", "response": f"a number \u00e4 {i}"} for i in range(2 * SAMPLE)]
    rows[3]["prompt"] = rows[5]["response"] = HALF
    with pytest.raises(ValueError, match="line 4"):
        check_exact(answers_of(tmp_path, rows), config, "error")
    assert seen == [0, 3, 5, SAMPLE]
