"""Importers of agents' recordings, logs and captures: what comes in comes out; a small file in each format."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import vllm_sim
from vllm_sim.trace.convert import convert
from vllm_sim.trace.files import iter_records
from vllm_sim.trace.formats import CONVERTERS, Options
from vllm_sim.trace.formats.guess import guess_format
from vllm_sim.trace.record import Record


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def converted(source: Path, name: str, **options: Any) -> list[Record]:
    """The records, and the format is the one that is guessed."""
    assert guess_format(source) == name
    out = source.parent / f"{source.name}.out"
    convert(source, out, None, Options(strict=True, **options))
    return [record for _, record in iter_records(out)]


# Weka


def call(t: float, ids: list[int], **more: object) -> dict[str, Any]:
    return {"t": t, "type": "n", "in": 64 * len(ids) + 3, "out": 5, "hash_ids": ids, "api_time": 2.0, **more}


SUBAGENT = {"t": 10.0, "type": "subagent", "agent_id": "x", "subagent_type": "Explore"}


@pytest.mark.parametrize("inner", [[0.5, 4.0], [10.5, 14.0]], ids=["from the sub-agent", "from the conversation"])
def test_weka_keeps_sub_agents_and_times_of_tools(tmp_path: Path, inner: list[float]) -> None:
    child = SUBAGENT | {"requests": [call(inner[0], [1, 7]), call(inner[1], [1, 7, 8])]}
    first = {"id": "a", "block_size": 64, "hash_id_scope": "local"}
    trace = first | {
        "requests": [call(0.0, [1, 2]), call(5.0, [1, 2, 3], think_time=1.5), child, call(20.0, [1, 2, 3, 4])]
    }
    found = converted(write(tmp_path / "a.json", trace, first | {"id": "b", "requests": [call(0, [1])]}), "weka")
    assert [(r.session_id, r.turn, r.timestamp, r.think_time_ms) for r in found] == [
        ("a", 0, 0, None),
        ("b", 0, 0, None),
        ("a", 1, 5000, 1500),
        ("a/x", 0, 10500, None),
        ("a/x", 1, 14000, 1500),
        ("a", 2, 20000, 13000),
    ]
    ids = [r.hash_ids for r in found]
    assert ids[2][:2] == ids[0]
    assert ids[3][0] == ids[0][0]
    assert ids[3][1] not in ids[2]
    assert ids[1][0] not in ids[5]  # local to a conversation
    assert found[3].extra == {"parent_session": "a"}
    assert found[3].workload == "Explore"


def test_weka_ids_may_be_global_and_a_folder_is_read(tmp_path: Path) -> None:
    for name in "ab":
        row = {"id": name, "block_size": 64, "hash_id_scope": "global", "requests": [call(0, [5])]}
        write(tmp_path / "traces" / f"{name}.json", row)
    first, second = converted(tmp_path / "traces", "weka")
    assert first.hash_ids == second.hash_ids


# TraceLab


def round_of(index: int, total: int, prefix: int, second: int) -> dict[str, Any]:
    times = [("user_message", second), ("text", second + 3)]
    events = [{"event_type": kind, "timestamp": f"2026-06-01T05:40:{at:02}.5Z"} for kind, at in times]
    values = {"session_id": "s", "round_index": index, "input_tokens_total": total, "prefix_tokens": prefix}
    return values | {"output_tokens": 9, "timing_events": events, "provider": "claude"}


def test_tracelab_rounds_share_their_prefix(tmp_path: Path) -> None:
    first, second = converted(
        write(tmp_path / "r.jsonl", round_of(0, 100, 50, 1), round_of(1, 180, 90, 10)), "tracelab"
    )
    assert (first.input_length, len(first.hash_ids), first.output_length) == (100, 6, 9)
    assert second.hash_ids[:5] == first.hash_ids[:5]
    assert not set(second.hash_ids[5:]) & set(first.hash_ids)
    assert (first.timestamp, second.timestamp, second.think_time_ms) == (0, 9000, 6000)


def test_tracelab_sessions_of_its_runner(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    header = "session_id,arrival_time,round_idx,prefix_len,input_len,output_len,tool_wait_after_ms\n"
    path.write_text(header + "0,117,0,0,64,20,300\n0,117,1,84,32,13,0\n1,100,0,0,16,10,0\n")
    found = converted(path, "tracelab")
    assert [(r.session_id, r.timestamp, r.think_time_ms, r.input_length) for r in found] == [
        ("1", 0, None, 16),
        ("0", 17, None, 64),
        ("0", 17, 300, 116),
    ]
    assert found[2].hash_ids[:4] == found[1].hash_ids
    path.write_text(header + "0,117,0,0,64,x,300\n")
    assert 'line 2: output_len is "x"; allowed: a number' in vllm_sim("trace", "convert", path, tmp_path / "o").stderr


# Agentic Mooncake, LMCache


def test_agentic_mooncake_waits_become_think_times(tmp_path: Path) -> None:
    row = {"input_length": 128, "output_length": 4, "hash_ids": [1, 2]}
    rows = [
        {"schema": "dynamo.agentic_mooncake", "version": 2, "block_size": 64},
        {"request_id": "a0", "session_id": "a", "timestamp": 100, **row},
        {"request_id": "a1", "session_id": "a", "wait_for": ["a0"], "delay": 30, "tool_wait_ms": 12.5, **row},
        {"request_id": "b0", "session_id": "b", "wait_for": ["a1"], "delay": 5, "prefix_reset": True, **row},
    ]
    found = converted(write(tmp_path / "m.jsonl", *rows), "mooncake-agentic")
    assert [(r.id, r.timestamp, r.think_time_ms, r.hash_block_size) for r in found] == [
        ("a0", 100, None, 64),
        ("a1", 142.5, 42.5, 64),
        ("b0", 147.5, None, 64),
    ]
    assert found[2].extra == {"wait_for": ["a1"], "prefix_reset": True}


def test_lmcache_logs_are_put_in_order_of_time(tmp_path: Path) -> None:
    def row(name: str, time: float, *hashes: str) -> dict[str, Any]:
        values = {"timestamp": time, "request_id": name, "model_name": "m", "chunk_size": 256}
        return values | {
            "seq_len": 256 * len(hashes) + 7,
            "chunk_hashes": list(hashes),
            "shapes": [[1]],
            "dtypes": ["x"],
        }

    folder = tmp_path / "logs"
    write(folder / "lookup_hashes_2.jsonl", row("late", 1711929601.25, "0xa", "0xb"))
    write(folder / "lookup_hashes_1.jsonl", row("early", 1711929600.0, "0xa"))
    early, late = converted(folder, "lmcache", output_tokens=3)
    assert (early.id, late.id, late.timestamp) == ("early", "late", 1250)
    assert late.hash_ids[0] == early.hash_ids[0] != late.hash_ids[1]
    assert (late.input_length, late.hash_block_size, late.output_length, late.workload) == (519, 256, 3, "m")


# Claude Code and Codex


def event(uuid: str, parent: str | None, second: int, kind: str, content: object, **more: Any) -> dict[str, Any]:
    message = {"role": kind, "content": content} | more.pop("message", {})
    times = {"timestamp": f"2026-06-01T05:40:{second:02}Z", "sessionId": "s1", "isSidechain": False}
    return {"type": kind, "uuid": uuid, "parentUuid": parent, "message": message, **times, **more}


def usage(fresh: int, written: int, read: int, output: int) -> dict[str, int]:
    counted = {"input_tokens": fresh, "cache_creation_input_tokens": written, "cache_read_input_tokens": read}
    return counted | {"output_tokens": output}


TOOL = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}
RESULT = [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a.py"}]}]
SESSION = [
    {"type": "summary", "summary": "x", "leafUuid": "u9"},
    event("u1", None, 0, "user", "What is here?"),
    event("a1", "u1", 4, "assistant", [{"type": "thinking", "thinking": "hm"}], message={"id": "m1", "model": "c"}),
    event("a2", "a1", 5, "assistant", [TOOL], message={"id": "m1", "model": "c", "usage": usage(2, 40, 160, 30)}),
    event("u2", "a2", 8, "user", RESULT),
    event("a3", "u2", 9, "assistant", [{"type": "text", "text": "One file."}],
          message={"id": "m2", "model": "c", "usage": usage(1, 50, 232, 12)}),
]  # fmt: skip
SIDE = [
    event("x1", None, 6, "user", "Look.", isSidechain=True, agentId="k"),
    event("x2", "x1", 7, "assistant", [{"type": "text", "text": "Seen."}], isSidechain=True, agentId="k",
          message={"id": "m3", "model": "c", "usage": usage(0, 16, 160, 3)}),
]  # fmt: skip


def test_claude_code_sessions_become_chats_and_sub_agents_their_own(tmp_path: Path) -> None:
    write(tmp_path / "projects" / "p" / "s1.jsonl", *SESSION)
    write(tmp_path / "projects" / "p" / "s1" / "subagents" / "agent-k.jsonl", *SIDE)
    first, side, second = converted(tmp_path / "projects", "claude-code")
    assert first.messages == [{"role": "user", "content": "What is here?"}]
    assert first.response == '{"name": "Bash", "parameters": {"command": "ls"}}'
    assert [message["role"] for message in second.messages] == ["user", "assistant", "tool"]
    assert second.messages[2] == {"role": "tool", "content": "a.py", "tool_call_id": "t1"}
    assert (second.turn, second.think_time_ms, second.timestamp) == (1, 3000, 8000)
    assert (side.session_id, side.extra["parent_session"], side.workload) == ("s1/k", "s1", "sub-agent")
    assert first.extra["recorded_input_tokens"] == 202
    assert vllm_sim("trace", "validate", tmp_path / "projects.out").returncode == 0


def test_hash_only_has_the_providers_lengths_and_no_text(tmp_path: Path) -> None:
    write(tmp_path / "projects" / "s1.jsonl", *SESSION)
    write(tmp_path / "projects" / "s1" / "subagents" / "agent-k.jsonl", *SIDE)
    out = tmp_path / "out.jsonl"
    assert vllm_sim("trace", "convert", tmp_path / "projects", out, "--hash-only", "--strict").returncode == 0
    assert not any(word in out.read_text() for word in ("What is here", "Look", "a.py", "Bash"))
    first, side, second = [record for _, record in iter_records(out)]
    assert [(r.input_length, r.output_length) for r in (first, side, second)] == [(202, 30), (176, 3), (283, 12)]
    assert second.hash_ids[: 202 // 16] == first.hash_ids
    assert side.hash_ids[: 160 // 16] == first.hash_ids[: 160 // 16]  # what all first calls of a model share
    assert side.hash_ids[160 // 16] not in first.hash_ids


def test_codex_rollouts_become_calls_with_their_counts(tmp_path: Path) -> None:
    def item(second: int, kind: str, **payload: object) -> dict[str, Any]:
        return {"timestamp": f"2026-06-01T05:40:{second:02}Z", "type": kind, "payload": payload}

    def said(second: int, role: str, text: str) -> dict[str, Any]:
        kind = "output_text" if role == "assistant" else "input_text"
        return item(second, "response_item", type="message", role=role, content=[{"type": kind, "text": text}])

    def counted(second: int, fresh: int, read: int, output: int) -> dict[str, Any]:
        last = {"input_tokens": fresh, "cached_input_tokens": read, "output_tokens": output}
        return item(second, "event_msg", type="token_count", info={"last_token_usage": last})

    arguments = json.dumps({"command": ["ls"]})
    rows = [
        item(0, "session_meta", id="u", cwd="/x"),
        item(0, "turn_context", model="gpt-5-codex"),
        said(1, "user", "List."),
        item(2, "response_item", type="reasoning", summary=[]),
        item(3, "response_item", type="function_call", name="shell", arguments=arguments, call_id="c1"),
        counted(4, 320, 0, 20),
        item(6, "response_item", type="function_call_output", call_id="c1", output="a.py"),
        said(9, "assistant", "One file."),
        counted(9, 400, 320, 5),
    ]
    write(tmp_path / "sessions" / "2026" / "rollout-1.jsonl", *rows)
    first, second = converted(tmp_path / "sessions", "codex")
    assert first.response == '{"name": "shell", "parameters": {"command": ["ls"]}}'
    assert [message["role"] for message in second.messages] == ["user", "assistant", "tool"]
    assert (second.session_id, second.turn, second.think_time_ms, second.response) == ("u", 1, 3000, "One file.")
    lengths = converted(tmp_path / "sessions", "codex", hash_only=True)
    assert [(r.input_length, r.output_length, len(r.hash_ids)) for r in lengths] == [(320, 20, 20), (400, 5, 25)]
    assert lengths[1].hash_ids[:20] == lengths[0].hash_ids


# OpenTelemetry, KV events


def span(name: str, second: int, **attributes: Any) -> dict[str, Any]:
    def value(one: Any) -> dict[str, Any]:
        return {"intValue": str(one)} if isinstance(one, int) else {"stringValue": one}

    own = {"gen_ai.operation.name": "chat", "gen_ai.conversation.id": "c"}
    own |= {f"gen_ai.{key.replace('__', '.')}": found for key, found in attributes.items()}
    times = {"startTimeUnixNano": str(second * 10**9), "endTimeUnixNano": str((second + 2) * 10**9)}
    pairs = [{"key": key, "value": value(found)} for key, found in own.items()]
    return {"traceId": "t", "spanId": name, "attributes": pairs, **times}


def export(*spans: dict[str, Any]) -> dict[str, Any]:
    return {"resourceSpans": [{"scopeSpans": [{"spans": [*spans, {"spanId": "tool", "attributes": []}]}]}]}


def test_spans_with_messages_become_chats(tmp_path: Path) -> None:
    sent = json.dumps([{"role": "user", "parts": [{"type": "text", "content": "Hi"}]}])
    got = json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Hello."}], "finish_reason": "stop"}])
    system = json.dumps([{"type": "text", "content": "Be short."}])
    row = span("1", 5, input__messages=sent, output__messages=got, system_instructions=system)
    (record,) = converted(write(tmp_path / "spans.json", export(row)), "otel")
    assert record.messages == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    assert (record.response, record.session_id, record.id) == ("Hello.", "c", "1")


def test_spans_without_messages_become_lengths(tmp_path: Path) -> None:
    lengths = [{"usage__input_tokens": n, "usage__output_tokens": 4} for n in (64, 160)]
    rows = [export(span(str(at), at * 10, **one)) for at, one in enumerate(lengths)]
    first, second = converted(write(tmp_path / "spans.jsonl", *rows), "otel")
    assert (second.input_length, second.timestamp, second.think_time_ms) == (160, 10000, 8000)
    assert second.hash_ids[:4] == first.hash_ids


def stored(hashes: list[int], parent: int | None) -> dict[str, Any]:
    own = {"type": "BlockStored", "block_hashes": hashes, "parent_block_hash": parent, "block_size": 8}
    return own | {"token_ids": [0] * 8 * len(hashes)}


def test_kv_events_become_the_misses_that_they_are(tmp_path: Path) -> None:
    batches = [
        {"ts": 10.0, "events": [stored([11, 12], None)]},
        [11.0, [stored([13], 12), {"type": "BlockRemoved", "block_hashes": [12]}], 0],
        {"ts": 12.5, "events": [stored([21, 22], 11), stored([23], 22), stored([24], 23)]},
    ]
    first, second = converted(write(tmp_path / "events.jsonl", *batches), "kv-events")
    assert (first.hash_ids, first.input_length, first.output_length) == ([0, 1], 16, 8)
    assert (second.hash_ids, second.timestamp, second.output_length) == ([0, 3, 4], 2500, 16)


# Guessing, and what cannot be used


def test_every_format_but_two_is_guessed_here_or_in_test_rows(tmp_path: Path) -> None:
    rows = {
        "sharegpt": {"conversations": []},
        "openai": {"messages": [], "response": {"choices": []}},
        "mooncake": {"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": [1]},
        "bailian": {"chat_id": 1, "hash_ids": [1]},
        "vllm-custom": {"prompt": "a", "output_tokens": 3},
        "native": {"prompt": "a", "response": "b"},
    }
    for name, row in rows.items():
        assert guess_format(write(tmp_path / f"{name}.jsonl", row)) == name
    (tmp_path / "array.json").write_text(json.dumps([rows["sharegpt"]], indent=1))
    assert guess_format(tmp_path / "array.json") == "sharegpt"
    assert set(rows) <= set(CONVERTERS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}\n', "has no format that can be told from its first objects; allowed: --from FORMAT"),
        ('{"chunk_hashes": ["x"], "seq_len": 3, "chunk_size": 0, "timestamp": 0}\n', "chunk_size is 0; allowed"),
        ('{"id": 1, "block_size": 16, "requests": 3}', "requests is 3; allowed: a list"),
        (
            '{"id": 1, "block_size": 16, "requests": [{"type": "x"}]}',
            'requests[0].type is "x"; allowed: n, s, subagent',
        ),
        ('{"request_id": 1, "hash_ids": [1], "wait_for": [7]}\n', "wait_for is [7]; allowed: a list of request_ids of"),
        ('{"sessionId": "s", "type": "user", "message": {"content": "x"}}\n', "timestamp is null; allowed: a time"),
        ('{"ts": "now", "events": []}\n', 'ts is "now"; allowed: seconds'),
    ],
)
def test_what_is_not_of_the_format_is_one_clear_error(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text(text)
    done = vllm_sim("trace", "convert", path, tmp_path / "out.jsonl", "--strict")
    assert done.returncode == 1
    assert reason in done.stderr
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = vllm_sim("trace", "convert", tmp_path / "empty", tmp_path / "out.jsonl")
    assert "holds no .json and no .jsonl file; allowed: another folder, or a file" in done.stderr
    done = vllm_sim("trace", "convert", "--from", "codex", tmp_path / "empty", tmp_path / "out.jsonl")
    assert "no file in this folder is one of the format; allowed: rollout-*.jsonl" in done.stderr
