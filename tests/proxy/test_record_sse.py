"""The events of a stream do not depend on where its bytes are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_sim.proxy.sse import EventReader


def read(chunks: list[bytes]) -> list[str]:
    reader = EventReader()
    events = [event for chunk in chunks for event in reader.feed(chunk)]
    return events + reader.close()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\r\n\r\ndata:  b\r\rdata: c\n\r\n", ["a", " b", "c"]),
        (b": comment\ndata: a\n: comment\ndata: b\n\n", ["a\nb"]),
        (b"event: x\nid: 1\nretry: 3\n\n\n\ndata: a\n\n", ["a"]),
        (b"data\n\n", [""]),
        (b"data: \xf0\x9f\x98\x80\n\n", ["\U0001f600"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\n\ndata: cut off", ["a", "cut off"]),
        (b"", []),
    ],
)
def test_events_follow_the_standard(stream: bytes, events: list[str]) -> None:
    assert read([stream]) == events


PIECES = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b": c",
        b"x",
        "é😀\u2028".encode(),
        b"event: e",
        b"\xef\xbb\xbf",
    ]
)


@given(st.lists(PIECES | st.binary(max_size=4), max_size=30).map(b"".join), st.data())
def test_any_split_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    bounds = [0, *cuts, len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(bounds)]
    assert read(chunks) == read([stream]) == read([bytes([b]) for b in stream])
