"""An agent loop that says what no server can see: how long its tool takes, and that its session is over.

    vllm serve MODEL --enable-auto-tool-choice --tool-call-parser llama3_json \
        --additional-config '{"vllm_sim": {"eviction": "hybrid"}}'
    python agent_loop.py --model MODEL "How is the weather in Lima?"

With each request the loop sends what it expects: that the session goes on, and after how long, which is the median of
the times that its tools have taken so far. When it expected a call and got an answer, it is the only one that knows:
then it sends the session once more, for one token, and says that it is over. That costs hits and one generated token;
where the session is served by a policy that heeds hints (docs/hints.md), its blocks are the next ones to go.
"""

import argparse
import json
import sys
import time
from statistics import median
from typing import Any

from openai import OpenAI

TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather of a place",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
        },
    }
]
GUESS_MS = 1000.0
"""What a tool is expected to take before one was called."""
MOST_CALLS = 8


def get_weather(place: str) -> str:
    """The tool, which takes its time."""
    time.sleep(0.2)
    return f"Rain in {place}."


class Session:
    """The messages of a user's task, and what is known of its tools.

    Args:
        client: of the server.
        model: its model's name.
    """

    def __init__(self, client: OpenAI, model: str):
        self.client = client
        self.model = model
        self.messages: list[Any] = []
        self.tool_ms: list[float] = []

    def run(self, task: str) -> str:
        """Works until the model answers without a call; returns the answer."""
        self.messages.append({"role": "user", "content": task})
        for calls in range(MOST_CALLS + 1):
            is_last = calls == MOST_CALLS
            message = self.ask(is_last, tool_choice="none" if is_last else "auto")
            if is_last or not message.tool_calls:
                break
            self.messages += [self.call(call) for call in message.tool_calls]
        if not is_last:
            self.ask(is_over=True, tool_choice="none", max_tokens=1)
        return message.content or ""

    def ask(self, is_over: bool, **options: Any) -> Any:
        """Sends the session as it is, with hints; returns the answer, which is its next message."""
        hints: dict[str, float] = {"session_end": int(is_over)}
        if not is_over:
            hints["next_turn_ms"] = round(median(self.tool_ms or [GUESS_MS]))
        response = self.client.chat.completions.create(
            model=self.model, messages=self.messages, tools=TOOLS, extra_body={"vllm_xargs": hints}, **options
        )
        message = response.choices[0].message
        self.messages.append({name: value for name, value in message.model_dump().items() if value})
        return message

    def call(self, call: Any) -> dict[str, Any]:
        """Runs a tool; returns the message with its result."""
        begin = time.monotonic()
        result = get_weather(**json.loads(call.function.arguments))
        self.tool_ms.append(1000 * (time.monotonic() - begin))
        return {"role": "tool", "tool_call_id": call.id, "content": result}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--base-url", default="http://localhost:8000/v1")
    parser.add_argument("--model", default="meta-llama/Llama-3.2-1B-Instruct", help="(default: %(default)s)")
    options = parser.parse_args()
    client = OpenAI(base_url=options.base_url, api_key="none")
    print(Session(client, options.model).run(options.task))
    return 0


if __name__ == "__main__":
    sys.exit(main())
