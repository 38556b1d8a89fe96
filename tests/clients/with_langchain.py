"""Chats, streams, tools and a miss through LangChain."""

import sys

import openai
from langchain_openai import ChatOpenAI

url, name = sys.argv[1:]
chat = ChatOpenAI(model=name, base_url=f"{url}/v1", api_key="none", max_retries=0)
answer = chat.invoke("Name a metal.")
assert answer.content == "Iron."
assert answer.usage_metadata["output_tokens"] > 1
assert "".join(piece.content for piece in chat.stream("Name a metal.")) == "Iron."
tools = [{"type": "function", "function": {"name": "weather", "description": "d", "parameters": {"type": "object"}}}]
(call,) = chat.bind(tools=tools).invoke("The weather in Lima?").tool_calls
assert (call["name"], call["args"]) == ("weather", {"place": "Lima"})
try:
    chat.invoke("never recorded")
    message = ""
except openai.NotFoundError as error:
    message = str(error)
assert "not in the trace" in message
