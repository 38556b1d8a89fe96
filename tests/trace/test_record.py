"""A record's fields: a value that breaks a rule is refused with what is allowed; one that keeps it is not changed."""

import json
import math
from typing import Any

import pytest

from vllm_sim.trace.files import parse_bytes, parse_line
from vllm_sim.trace.record import FIELDS, decode_record, parse_record

TEXT = {"prompt": "a", "response": "b"}
IDS = {"prompt_token_ids": [1], "response": "b"}
HASHES = {"hash_ids": [1], "input_length": 9, "hash_block_size": 9, "output_length": 1}
TOKENS, BLOCKS = "a list of token ids (0 or more)", "a list of block ids (0 or more)"
WHOLE = "a whole number (of 64 bits)"
SOME, NAME = "a number of tokens (1 to 16777216)", "a text or a whole number (of 64 bits)"
TIME = "milliseconds (0 to 9007199254740992)"
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
    (HASHES, "output_length", -1, "a number of tokens (0 to 16777216)"),
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
    (TEXT, "turn", 1.0, "a whole number (0 or more, of 64 bits)"),
    (TEXT, "workload", 1, "a text"),
    (TEXT, "max_tokens", 0, "a number of tokens (1 or more, of 64 bits)"),
    (TEXT, "finish_reason", 1, "a text"),
    (TEXT, "cache_salt", "", "a text that is not empty"),
    (TEXT, "priority", 0.5, WHOLE),
    (TEXT, "session_end", 1, "true or false"),
    (TEXT, "next_turn_ms", -1, TIME),
    (TEXT, "retention_priority", 101, "a whole number (0 to 100)"),
    (TEXT, "retention_ms", -1, TIME),
    (TEXT, "kv_hints", [], "an object"),
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


@pytest.mark.parametrize("time", [5, 5.0, 0, 2**53, 1e15])
def test_a_number_stays_what_it_was(time):
    values = TEXT | {"timestamp": time, "extra": 1, "unknown": {"a": None}, "turn": None}
    written = parse_record(values).to_json()
    del values["turn"]
    assert json.dumps(written, sort_keys=True) == json.dumps(values, sort_keys=True)


LENGTH = b'"output_length":3}'
PLAIN = [
    b'{"hash_ids":[1],"hash_ids":[2],"input_length":512,' + LENGTH,
    b'{"hash_ids":[99999999999999999999999999],"input_length":9,' + LENGTH,
    b'{"prompt":"\\ud83d\\ude00 \\u00e9","timestamp":100,"id":null,' + LENGTH,
    b' {"prompt":"a","timestamp":1e2,"turn":-0,' + LENGTH + b" \r\n",
    b'{"prompt":"a","timestamp":2.2250738585072011e-308,"tenant":"b",' + LENGTH,
    '{"prompt":"a\x7f\u20ac","timestamp":9007199254740992.0,"output_length":-0}'.encode(),
]
OTHER = [
    b'{"prompt":"a","extra":{"b":1},' + LENGTH,
    b'{"prompt":"a","unknown":1,' + LENGTH,
    b'{"messages":[{"role":"user","content":99999999999999999999999}],' + LENGTH,
    b'{"prompt":"a","tools":[{"a":99999999999999999999999}],' + LENGTH,
]
BAD = [
    b'{"hash_ids":[1.0],"input_length":512,' + LENGTH,
    b'{"hash_ids":[1,2],"input_length":512,' + LENGTH,
    b'{"prompt":"a","hash_ids":[1],"input_length":512,' + LENGTH,
    b'{"prompt":"a","response":"b",' + LENGTH,
    b'{"prompt":"a\tb",' + LENGTH,
    b'{"prompt":"\\ud800",' + LENGTH,
    b'{"prompt":"\xed\xa0\x80",' + LENGTH,
    b'{"prompt":"a","output_length":03}',
    b'{"prompt":"a","output_length":true}',
    b'{"prompt":"a","cache_salt":"",' + LENGTH,
    b'\xef\xbb\xbf{"prompt":"a",' + LENGTH,
    b'{"prompt":"a","output_length":3,}',
    b"[]",
]


@pytest.mark.parametrize("line", PLAIN + OTHER + BAD, ids=repr)
def test_a_line_that_is_decoded_by_its_type_at_once_is_the_record_that_it_is_otherwise(line: bytes) -> None:
    assert (decode_record(line) is not None) == (line in PLAIN)
    if line in BAD:
        with pytest.raises(ValueError, match=r"allowed|not JSON|not UTF-8|half a character|a record (has|is)"):
            parse_bytes(line)
    else:
        found, expected = parse_bytes(line), parse_line(line.decode())
        assert repr(found) == repr(expected)  # 1 is no 1.0
