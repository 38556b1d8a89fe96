"""Chats, completions, streams, tools, a miss and models with the client of OpenAI."""

import sys

import openai

url, name = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
assert [model.id for model in client.models.list()] == [name]
assert client.completions.create(model=name, prompt="hehe").choices[0].text == "hahaha!"
chat = [{"role": "user", "content": "Name a metal."}]
answer = client.chat.completions.create(model=name, messages=chat)
assert answer.choices[0].message.content == "Iron."
assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
with client.chat.completions.stream(model=name, messages=chat) as stream:
    assert stream.get_final_completion().choices[0].message.content == "Iron."
tools = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}]
messages = [{"role": "user", "content": "The weather in Lima?"}]
call = client.chat.completions.create(model=name, messages=messages, tools=tools).choices[0].message.tool_calls[0]
assert (call.function.name, call.function.arguments) == ("weather", '{"place": "Lima"}')
try:
    client.completions.create(model=name, prompt="never recorded")
    message = ""
except openai.NotFoundError as error:
    message = str(error)
assert "not in the trace" in message
