"""Chats, streams and a miss through LiteLLM."""

import sys

import litellm

url, name = sys.argv[1:]
options = {"model": f"hosted_vllm/{name}", "api_base": f"{url}/v1", "api_key": "none", "num_retries": 0}
chat = [{"role": "user", "content": "Name a metal."}]
answer = litellm.completion(messages=chat, **options)
assert answer.choices[0].message.content == "Iron."
assert answer.usage.completion_tokens > 1
pieces = [event.choices[0].delta.content or "" for event in litellm.completion(messages=chat, stream=True, **options)]
assert "".join(pieces) == "Iron."
try:
    litellm.completion(messages=[{"role": "user", "content": "never recorded"}], **options)
    message = ""
except litellm.exceptions.NotFoundError as error:
    message = str(error)
assert "not in the trace" in message
