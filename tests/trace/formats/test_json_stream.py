"""The streaming reader gives what json.loads gives, and all that is whole of a file that is cut off."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sim.trace.formats import json_stream
from vllm_sim.trace.formats.json_stream import iter_elements
from vllm_sim.trace.record import TraceError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def read(path: Path) -> tuple[list, list[str]]:
    cuts: list[str] = []
    return list(iter_elements(path, cuts.append)), cuts


@given(values=st.lists(VALUES, max_size=8), indent=st.none() | st.integers(0, 2), chunk=st.integers(1, 40))
def test_an_array_gives_its_elements_whatever_the_chunks(tmp_path_factory, values, indent, chunk):
    path = tmp_path_factory.getbasetemp() / "array.json"
    path.write_text(json.dumps(values, indent=indent, ensure_ascii=False).encode("utf-8", "replace").decode())
    expected = json.loads(path.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
        assert read(path) == (expected, [])


@given(cut=st.integers(1, 200), chunk=st.integers(1, 300))
def test_a_file_cut_anywhere_gives_the_elements_before_the_cut(tmp_path_factory, cut, chunk):
    path = tmp_path_factory.getbasetemp() / "cut.json"
    values = [{"id": i, "text": f'{i} "ü😀"\\ {{[' * (i % 3)} for i in range(9)]
    whole = json.dumps(values, indent=1, ensure_ascii=False).encode()
    path.write_bytes(whole[:-cut])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "CHUNK_CHARACTERS", chunk)
        found, cuts = read(path)
    assert found == values[: len(found)]
    assert len(cuts) == 1
    assert len(found) == whole[:-cut].count(b"\n }")


def test_objects_one_a_line_are_read_too(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n')
    assert read(path) == ([{"a": 1}, {"a": 2}], [])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"a": 1},\n{"a": oops' + " " * 100 + "}]", "line 2: not JSON"),
        ("[1]\n x", "line 2: text after the end"),
        ("[" * 100_000 + " " * 100, "nested too deeply"),
    ],
)
def test_a_file_broken_elsewhere_than_at_its_end_is_refused_with_the_line(tmp_path, text, reason):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=reason):
        read(path)


def test_text_that_is_not_utf8_is_refused_with_the_line(tmp_path):
    path = tmp_path / "latin.json"
    path.write_bytes(b'[1,\n"\xe4\xe4"]')
    with pytest.raises(TraceError, match="line 1: not UTF-8"):
        read(path)
