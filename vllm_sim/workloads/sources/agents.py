"""Agents with tools: a system prompt and tool schemas that agents of a kind share, and several calls a session.

Tasks, schemas and calls are those of BFCL (see bfcl.py): 8 toolboxes, of which a task has one to three. A session is a
task: for each of the user's turns a request a call, with the results of the calls before it in the history, and one for
the closing answer. BFCL runs its tools; here a result is invented after the schema that the tool has for it, and so is
the closing answer.

    package           the wheel of bfcl-eval or a folder that holds bfcl_eval/ (default: the installed package)
    categories        of BFCL (default: multi_turn_base, multi_turn_miss_param: 400 tasks)
    system_prompt     (default: SYSTEM)
    answer_words      distribution, of closing answers (default: log-normal, median 40, sigma 0.5, 5 to 300)
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from vllm_sim.trace.formats.conversations import Conversation, Message, requests_of
from vllm_sim.workloads.distribution import Distribution, LogNormal, get_distribution
from vllm_sim.workloads.prose import prose
from vllm_sim.workloads.session import Seeds, Session, too_few
from vllm_sim.workloads.sources.bfcl import CATEGORIES, COMMAND, PACKAGE, Bfcl, FunctionTask, Json, openai_tool
from vllm_sim.workloads.tables import TEXT, TomlTable, texts

SYSTEM = """You are an agent that works for one user, step by step, with the functions below.

Before you act, read the whole request and decide which steps it needs and in which order. Call one function at a
time, wait for its result, and read the result before you go on: a later step often depends on what an earlier one
returned. Use the functions for everything that they can do; do not answer from memory what a function can look up,
and do not claim to have done what no function has done.

Take arguments from the user's words or from earlier results. Never invent a name, a number, an account or a path.
Where an argument that the function needs is missing and no function can find it, ask the user for it in one short
sentence and wait. Leave optional arguments out unless the user's wish calls for them. Keep the spelling, the case and
the units that the user gave, and convert units only with a function.

When a function reports an error, read it, correct the arguments once, and try again. If it fails a second time, stop
and tell the user what failed and what you would need. Never repeat a call that changes something - an order, a
payment, a message, a booking, a deletion - unless you know that the first one had no effect.

Do what was asked and nothing beyond it. Do not log in, log out, send, buy, cancel or delete on your own account. What
the user says later in the conversation goes before what was said earlier. Earlier results stay valid until a call of
yours has changed what they describe.

When all steps are done, close with a short answer in plain words: what was done, what the results were, and what is
left for the user to decide. No lists of calls, no repetition of the request, no apologies."""
DEPTH = 4
"""Of invented results; what lies deeper is empty."""


@dataclass(frozen=True, slots=True)
class Agents:
    """Agents that work through BFCL's tasks, each task once."""

    package: Path | None
    categories: list[str]
    system_prompt: str
    answer_words: Distribution

    @classmethod
    def read(cls, table: TomlTable) -> Self:
        package = table.file("package") if "package" in table else None
        if package is not None and not package.exists():
            hint = table.hint() or f"; to get it: {COMMAND} (then without `package`)"
            raise table.refuse("package", f"the wheel of {PACKAGE}, or a folder with bfcl_eval in it{hint}")
        return cls(
            package,
            table.get("categories", texts(*CATEGORIES), list(CATEGORIES[:2])),
            table.get("system_prompt", TEXT, SYSTEM),
            get_distribution(table, "answer_words", 1, LogNormal(40, 0.5, 5, 300)),
        )

    def sessions(self, count: int | None, seeds: Seeds) -> list[Session]:
        tasks = list(Bfcl(self.package).tasks(self.categories))
        if count is not None and count > len(tasks):
            raise too_few(f"agents ({', '.join(self.categories)})", count, len(tasks))
        order = seeds.generator("order").permutation(len(tasks))[:count]
        return [self._session(tasks[number], seeds.generator("text", int(number))) for number in order]

    def _session(self, task: FunctionTask, generator: np.random.Generator) -> Session:
        messages = [{"role": "system", "content": self.system_prompt}, *self._messages(task, generator)]
        tools = [openai_tool(tool) for tool in task.tools]
        return Session(task.id, list(requests_of(Conversation(task.id, messages, tools))))

    def _messages(self, task: FunctionTask, generator: np.random.Generator) -> Iterator[Message]:
        results = {tool["name"]: tool.get("response") or {} for tool in task.tools}
        for turn in task.turns:
            yield {"role": "user", "content": turn.text}
            for call in turn.calls:
                name = f"call_{int(generator.integers(1 << 32)):08x}"
                function = {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)}
                yield {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": name, "type": "function", "function": function}],
                }
                result = invent(results.get(call.name, {}), generator)
                yield {"role": "tool", "tool_call_id": name, "content": json.dumps(result, ensure_ascii=False)}
            words = int(self.answer_words.draw(generator, 1)[0])
            yield {"role": "assistant", "content": prose(generator, words)}


def invent(schema: Json, generator: np.random.Generator, depth: int = 0) -> Any:
    """A value of a schema of BFCL (types dict, array, string, integer, float, boolean)."""
    kind = schema.get("type", "dict")
    if kind == "dict":
        properties = schema.get("properties") or {}
        return {key: invent(value, generator, depth + 1) for key, value in properties.items() if depth < DEPTH}
    if kind == "array":
        count = int(generator.integers(1, 5)) if depth < DEPTH else 0
        return [invent(schema.get("items") or {"type": "string"}, generator, depth + 1) for _ in range(count)]
    if kind == "integer":
        return int(generator.integers(0, 10_000))
    if kind == "float":
        return round(float(generator.random()) * 1000, 2)
    if kind == "boolean":
        return bool(generator.integers(2))
    return prose(generator, int(generator.integers(1, 12)))
