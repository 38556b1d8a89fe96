"""Getting public traces by a list."""

import hashlib
from pathlib import Path

import pytest

from milestone3_code.study.real_traces import fetch_traces

LIST = """
[one]
what = "A trace."
url = "{url}"
file = "one.jsonl"
sha256 = "{digest}"
licence = "none"
cite = "nobody"

[two]
what = "Another one."
file = "two.jsonl"
sha256 = "0"
from = "made by hand"
licence = "none"
cite = "nobody"
"""


def make_list(folder: Path, digest: str) -> Path:
    source = folder / "source.jsonl"
    source.write_text("{}\n")
    listed = folder / "traces.toml"
    listed.write_text(LIST.format(url=source.as_uri(), digest=digest))
    return listed


def test_a_trace_is_got_once_and_one_without_an_address_is_described(tmp_path: Path) -> None:
    listed, said = make_list(tmp_path, hashlib.sha256(b"{}\n").hexdigest()), list[str]()
    assert fetch_traces(listed, tmp_path / "out", said.append) == [tmp_path / "out" / "one.jsonl"]
    assert said[-1] == "two: not got; made by hand"
    (tmp_path / "source.jsonl").unlink()
    assert fetch_traces(listed, tmp_path / "out", said.append, ["one"])
    (tmp_path / "out" / "one.jsonl").unlink()
    with pytest.raises(ValueError, match="cannot be got"):
        fetch_traces(listed, tmp_path / "out", said.append)
    with pytest.raises(ValueError, match="no trace three; allowed: one, two"):
        fetch_traces(listed, tmp_path / "out", said.append, ["three"])


def test_other_bytes_than_the_list_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has the SHA-256"):
        fetch_traces(make_list(tmp_path, "1"), tmp_path / "out", str)
