"""The multi-turn part of the Berkeley Function Calling Leaderboard, read from the files of `bfcl-eval` (Apache-2.0).

The package is not imported, for its dependencies are many; bfcl-eval 2026.3.23 was read. Used are, as JSON lines,
`data/BFCL_v4_CATEGORY.json` (the user's turns, and the toolboxes that are involved), `data/possible_answer/` (the right
calls of each turn, as Python expressions) and `data/multi_turn_func_doc/` (the tools' schemas).
"""

import ast
import importlib.util
import json
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = "bfcl-eval==2026.3.23"
COMMAND = f"pip install --no-deps {PACKAGE}"
CATEGORIES = ("multi_turn_base", "multi_turn_miss_param", "multi_turn_long_context")
# Toolbox: file of its schemas, as bfcl_eval/constants/executable_backend_config.py has it.
TOOLBOXES = {
    "GorillaFileSystem": "gorilla_file_system.json",
    "MathAPI": "math_api.json",
    "MessageAPI": "message_api.json",
    "TicketAPI": "ticket_api.json",
    "TradingBot": "trading_bot.json",
    "TravelAPI": "travel_booking.json",
    "TwitterAPI": "posting_api.json",
    "VehicleControlAPI": "vehicle_control.json",
}
# BFCL's names of types: JSON schema's.
TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}

Json = dict[str, Any]
Folder = Path | zipfile.Path


class Call(NamedTuple):
    name: str
    arguments: Json


class Turn(NamedTuple):
    """What the user says, and the calls that answer it (none: the model has to ask back)."""

    text: str
    calls: list[Call]


class FunctionTask(NamedTuple):
    id: str
    turns: list[Turn]
    tools: list[Json]
    """As BFCL has them, with the schema of the result under `response`."""


class Bfcl:
    """The tasks of some categories."""

    def __init__(self, package: Path | None):
        """Finds the files.

        Args:
            package: The wheel, or the folder that holds `bfcl_eval/`; None for the installed package.

        Raises:
            ValueError: they are not there; the message says how to get them.
        """
        self._data = _find_data(package)
        self._tools = cache(self._read_tools)

    def tasks(self, categories: list[str]) -> Iterator[FunctionTask]:
        """Yields the tasks in the order of the files.

        Raises:
            ValueError: a file is missing or broken.
        """
        for category in categories:
            file = f"BFCL_v4_{category}.json"
            answers = {row["id"]: row["ground_truth"] for row in self._rows("possible_answer", file)}
            for row in self._rows(file):
                try:
                    yield self._task(row, answers[row["id"]])
                except (KeyError, TypeError, SyntaxError, ValueError) as error:
                    where = f"{self._data / file}, id {row.get('id')!r}"
                    raise ValueError(
                        f"{where}: {type(error).__name__} {error}; allowed: the data of {PACKAGE}"
                    ) from None

    def _task(self, row: Json, answers: list[list[str]]) -> FunctionTask:
        excluded = row.get("excluded_function") or []
        # In one order for all, so that agents with the same toolboxes share their prompts.
        boxes = sorted(row["involved_classes"])
        tools = [tool for box in boxes for tool in self._tools(box)]
        parameters = {tool["name"]: list(tool["parameters"]["properties"]) for tool in tools}
        turns = []
        for messages, calls in zip(row["question"], answers, strict=True):
            text = "\n".join(message["content"] for message in messages)
            turns.append(Turn(text, [_parse_call(call, parameters) for call in calls]))
        return FunctionTask(row["id"], turns, [tool for tool in tools if tool["name"] not in excluded])

    def _read_tools(self, box: str) -> list[Json]:
        return list(self._rows("multi_turn_func_doc", TOOLBOXES[box]))

    def _rows(self, *parts: str) -> Iterator[Json]:
        file = self._data.joinpath(*parts)
        if not file.is_file():
            raise ValueError(f"{file}: no such file; allowed: the data of {PACKAGE} ({COMMAND})")
        for line in file.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _find_data(package: Path | None) -> Folder:
    if package is None:
        found = importlib.util.find_spec("bfcl_eval")
        if found is None or not found.submodule_search_locations:
            raise ValueError(f"the package bfcl-eval is not installed; to get it: {COMMAND}")
        return Path(found.submodule_search_locations[0]) / "data"
    if zipfile.is_zipfile(package):
        return zipfile.Path(package, "bfcl_eval/data/")
    return package / "bfcl_eval" / "data"


def _parse_call(text: str, parameters: dict[str, list[str]]) -> Call:
    """A call such as `mv(source='a', destination='b')`; arguments without a name get the one of their place."""
    call = ast.parse(text, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise ValueError(f"{text!r} is not a call")
    name = call.func.id
    arguments = dict(zip(parameters[name], map(ast.literal_eval, call.args), strict=False))
    arguments |= {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    return Call(name, arguments)


def openai_tool(tool: Json) -> Json:
    """A tool as OpenAI's API has it: without the schema of the result, and with the types of JSON schema."""
    function = {key: tool[key] for key in ("name", "description")}
    return {"type": "function", "function": function | {"parameters": _json_schema(tool["parameters"])}}


def _json_schema(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_json_schema(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _json_schema(value) for key, value in schema.items()}
    if isinstance(schema.get("type"), str):
        result["type"] = TYPES.get(schema["type"], schema["type"])
    return result
