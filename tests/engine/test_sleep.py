"""A sleeping engine, which has no worker to send to sleep."""

from tests.engine.conftest import Start, generate, prompts_of


def test_engine_answers_after_a_sleep(start: Start) -> None:
    llm = start([{"prompt": "hehe", "response": "hahaha!"}])
    llm.sleep(level=1)
    llm.wake_up()
    assert generate(llm, prompts_of(llm))[0].text == "hahaha!"
