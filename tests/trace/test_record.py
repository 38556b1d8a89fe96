"""A record's fields: a value that breaks a rule is refused with what is allowed; one that keeps it is not changed."""

import json
import math
from typing import Any

import pytest

from vllm_sim.trace.record import FIELDS, parse_record

TEXT = {"prompt": "a", "response": "b"}
IDS = {"prompt_token_ids": [1], "response": "b"}
HASHES = {"hash_ids": [1], "input_length": 9, "hash_block_size": 9, "output_length": 1}
TOKENS, BLOCKS, WHOLE = "a list of token ids (0 or more)", "a list of block ids (0 or more)", "a whole number"
SOME, NAME, TIME = "a number of tokens (1 or more)", "a text or a whole number", "milliseconds (0 or more)"
BROKEN: list[tuple[dict[str, Any], str, Any, str]] = [
    (TEXT, "prompt", 3, "a text"),
    ({"response": "b"}, "messages", [], "a list of chat messages, one at least"),
    ({"response": "b"}, "messages", ["a"], "a list of chat messages, one at least"),
    (IDS, "prompt_token_ids", [], f"{TOKENS}, one at least"),
    (IDS, "prompt_token_ids", [2**31], f"{TOKENS}, one at least"),
    (IDS, "prompt_token_ids", [1.0], f"{TOKENS}, one at least"),
    (HASHES, "hash_ids", "a", BLOCKS),
    (HASHES, "input_length", 0, SOME),
    (HASHES, "hash_block_size", True, SOME),
    (HASHES, "output_length", -1, "a number of tokens (0 or more)"),
    (TEXT, "response", ["b"], "a text"),
    ({"prompt": "a"}, "response_token_ids", [True], TOKENS),
    (TEXT, "tools", {}, "a list of tools"),
    (TEXT, "chat_template_kwargs", [], "an object"),
    (TEXT, "id", 1.5, NAME),
    (TEXT, "session_id", False, NAME),
    (TEXT, "tenant", ["a"], NAME),
    (TEXT, "timestamp", -0.5, TIME),
    (TEXT, "timestamp", math.nan, TIME),
    (TEXT, "think_time_ms", math.inf, TIME),
    (TEXT, "think_time_ms", "1", TIME),
    (TEXT, "turn", 1.0, "a whole number (0 or more)"),
    (TEXT, "workload", 1, "a text"),
    (TEXT, "max_tokens", 0, SOME),
    (TEXT, "finish_reason", 1, "a text"),
    (TEXT, "cache_salt", "", "a text that is not empty"),
    (TEXT, "priority", 0.5, WHOLE),
]


@pytest.mark.parametrize(("values", "name", "value", "allowed"), BROKEN)
def test_a_value_that_breaks_a_rule_is_named_with_what_is_allowed(values, name, value, allowed):
    with pytest.raises(ValueError, match="allowed") as caught:
        parse_record(values | {name: value})
    message = str(caught.value)
    assert message.startswith(f"{name} is {json.dumps(value)}")
    assert message.endswith(f"; allowed: {allowed}")
    assert "\n" not in message


def test_every_field_has_a_value_that_is_refused():
    assert {name for _, name, _, _ in BROKEN} == set(FIELDS)


def test_of_a_long_list_the_entry_that_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"prompt_token_ids is \[0, .*\.\.\. \(\[50\] is -7\); allowed"):
        parse_record(IDS | {"prompt_token_ids": [*range(50), -7]})


@pytest.mark.parametrize("time", [5, 5.0, 0, 2**70, 1e300])
def test_a_number_stays_what_it_was(time):
    values = TEXT | {"timestamp": time, "extra": 1, "unknown": {"a": None}, "turn": None}
    written = parse_record(values).to_json()
    del values["turn"]
    assert json.dumps(written, sort_keys=True) == json.dumps(values, sort_keys=True)
