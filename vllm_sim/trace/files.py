"""Reading and writing traces: plain, .gz or .zst, one record a line, as a stream with the memory of one line.

A file is written under a temporary name beside its place and renamed when it is whole.
"""

import gzip
import io
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import zstandard

from vllm_sim.trace.record import Record, TraceError, parse_record


def open_text(path: Path) -> IO[str]:
    """Opens a file for reading as UTF-8 text, with the line ends that are in it; .gz and .zst are unpacked."""
    if path.suffix == ".gz":
        return cast(IO[str], gzip.open(path, "rt", encoding="utf-8", newline="\n"))
    if path.suffix == ".zst":
        return cast(IO[str], zstandard.open(path, "rt", encoding="utf-8", newline="\n"))
    return path.open(encoding="utf-8", newline="\n")


def iter_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line); blank lines are passed over.

    Raises:
        TraceError: the file is not there, cannot be unpacked or is not UTF-8.
    """
    number = 0
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        raise TraceError(path, 0, f"no such file{where}") from None
    except UnicodeDecodeError as error:
        raise TraceError(path, number + 1, f"not UTF-8: {error.reason}") from None
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise TraceError(path, number + 1 if number else 0, f"cannot be read: {error}") from None


def parse_line(line: str) -> Record:
    """A record from a line of JSON.

    Raises:
        ValueError: not JSON, or not a record; with the reason.
    """
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        cut = "" if line.endswith("\n") else " (the last line is cut off)"
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}{cut}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    return parse_record(values)


def iter_records(path: Path) -> Iterator[tuple[int, Record]]:
    """Yields (line number, record).

    Raises:
        TraceError: at the first line that is not a record; or the file holds none.
    """
    number = 0
    for number, line in iter_lines(path):
        try:
            yield number, parse_line(line)
        except ValueError as error:
            raise TraceError(path, number, str(error)) from None
    if not number:
        raise TraceError(path, 0, "the file holds no record")


@contextmanager
def open_output(path: Path) -> Iterator[IO[str]]:
    """Opens a text file for writing (UTF-8, packed by its suffix); it appears under its name only when it is whole.

    A gzip file carries no time of its making: the same text gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as raw:
            if path.suffix == ".gz":
                packed: Any = gzip.GzipFile(fileobj=raw, filename="", mode="wb", mtime=0)
            elif path.suffix == ".zst":
                packed = zstandard.ZstdCompressor().stream_writer(raw, closefd=False)
            else:
                packed = raw
            with io.TextIOWrapper(packed, encoding="utf-8", newline="\n") as file:
                yield file
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes a trace; returns the number of records."""
    count = 0
    with open_output(path) as file:
        for record in records:
            file.write(format_record(record))
            count += 1
    return count


def format_record(record: Record) -> str:
    """The line of a record, its line end included."""
    return json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n"
