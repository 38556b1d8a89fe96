"""Reading and writing traces: plain, .gz or .zst, one record a line, as a stream with the memory of one line.

A file is written under a temporary name and renamed when it is whole (output.py). The one that grows in its place is a
recording: a line that its recorder has not finished begins with UNFINISHED in place of the brace, and every reader
passes over it with a warning.
"""

import gzip
import io
import json
import logging
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar, cast

import zstandard

from vllm_sim.trace.output import open_output as open_output
from vllm_sim.trace.record import Record, TraceError, check_encodable, decode_record, parse_record

logger = logging.getLogger(__name__)

OnBytes = Callable[[int], None]
MAX_LINE_BYTES = 1 << 28
"""More than any request has; a file that is one long line is refused and not read into memory."""
LINES_PER_REPORT = 256
UNFINISHED = b"#"
"""Stands for the first byte of a record, an opening brace, until all of the record is in the file."""
ZSTD_BYTES = 1 << 14
"""Packed bytes taken at once; what they unpack to is held."""
READ_ERRORS = (OSError, EOFError, zlib.error, zstandard.ZstdError)
T = TypeVar("T")


class _ZstdFrames(io.RawIOBase):
    """The text of all frames of a .zst file; unlike zstandard's own reader it does not take a cut for the end."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._is_within_frame = False
        self._packed = b""
        self._unpacked = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._unpacked:
            if self._frame.eof:
                self._packed = self._frame.unused_data
                self._frame = zstandard.ZstdDecompressor().decompressobj()
                self._is_within_frame = False
            packed = self._packed or self._raw.read(ZSTD_BYTES)
            self._packed = b""
            if not packed:
                if self._is_within_frame:
                    raise EOFError("the compressed file is cut off")
                return 0
            self._is_within_frame = True
            self._unpacked = memoryview(self._frame.decompress(packed))
        count = min(len(buffer), len(self._unpacked))
        buffer[:count] = self._unpacked[:count]
        self._unpacked = self._unpacked[count:]
        return count


def open_packed(path: Path, raw: BinaryIO) -> BinaryIO:
    """The bytes of an open file, unpacked when its suffix says .gz or .zst; closing the result leaves `raw` open."""
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(_ZstdFrames(raw)))
    return raw


@contextmanager
def open_bytes(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Opens a file for reading: (its bytes, unpacked; the file as it lies on the disk, whose `tell` is the progress).

    Raises:
        TraceError: it is a pipe, a folder or a device.
        READ_ERRORS: then or while it is read; `read_error` makes a TraceError of each.
    """
    check_is_file(path)
    with path.open("rb") as raw, open_packed(path, raw) as file:
        yield file, raw


def check_is_file(path: Path) -> None:
    """Refuses what cannot be read twice, as most commands read a trace: before it is opened, which waits at a pipe.

    Raises:
        TraceError: there is no file.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise read_error(path, 0, error) from None
    if not stat.S_ISREG(mode):
        raise TraceError(path, 0, "cannot be read: a pipe, a folder or a device; allowed: a file")


def read_error(path: Path, line: int, error: Exception) -> TraceError:
    """What to raise for one of READ_ERRORS that came up at a line (0: before the first)."""
    if isinstance(error, FileNotFoundError):
        where = "" if path.is_absolute() else f" (looked for in {Path.cwd()})"
        return TraceError(path, 0, f"no such file{where}")
    return TraceError(path, line, f"cannot be read: {error}")


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Opens a file for reading as UTF-8 text, with the line ends that are in it; .gz and .zst are unpacked."""
    with open_bytes(path) as (file, _), io.TextIOWrapper(file, encoding="utf-8", newline="\n") as text:
        yield text


def iter_raw_lines(path: Path, on_bytes: OnBytes | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields (line number from 1, line as bytes); blank lines are passed over.

    Args:
        path: The file.
        on_bytes: Called now and then with the number of bytes of the file, as it lies on the disk, that were read.

    Raises:
        TraceError: the file is not there or cannot be unpacked; or a line is longer than MAX_LINE_BYTES.
    """
    number = 0
    try:
        with open_bytes(path) as (file, raw):
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    raise TraceError(path, number, f"the line is longer than {MAX_LINE_BYTES} bytes")
                if on_bytes is not None and number % LINES_PER_REPORT == 0:
                    on_bytes(raw.tell())
                if not line.isspace():
                    yield number, line
    except READ_ERRORS as error:
        raise read_error(path, number + 1 if number else 0, error) from None


def is_unfinished(line: bytes) -> bool:
    """Whether a line is a record that a recorder is writing, or was writing when it was killed."""
    return line == UNFINISHED or line.startswith(UNFINISHED + b'"')


def pass_over_unfinished(path: Path, number: int, line: bytes) -> bool:
    """is_unfinished, with a warning."""
    unfinished = is_unfinished(line)
    if unfinished:
        logger.warning("%s, line %d: passed over, an unfinished record (%d bytes)", path, number, len(line))
    return unfinished


def iter_lines(path: Path, on_bytes: OnBytes | None = None) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, line) as iter_raw_lines does, without a record that is not finished.

    Raises:
        TraceError: as iter_raw_lines, or a line is not UTF-8.
    """
    return _parsed(path, decode_text, on_bytes)


def _parsed(path: Path, parse: Callable[[bytes], T], on_bytes: OnBytes | None) -> Iterator[tuple[int, T]]:
    """The lines of a file as `parse` reads them; its ValueError becomes a TraceError."""
    for number, line in iter_raw_lines(path, on_bytes):
        if pass_over_unfinished(path, number, line):
            continue
        try:
            value = parse(line)
        except ValueError as error:
            raise TraceError(path, number, str(error)) from None
        yield number, value


def decode_text(line: bytes) -> str:
    """A line as text.

    Raises:
        ValueError: it is not UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start + 1}") from None


def parse_json(line: str) -> Any:
    """The value of a line of JSON.

    Raises:
        ValueError: not JSON, or it holds half a character, which no tokenizer can encode; with the reason.
    """
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        cut = "" if line.endswith("\n") else " (the last line is cut off)"
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}{cut}") from None
    except RecursionError:
        raise ValueError("not JSON that can be read: nested too deeply") from None
    # Half a character can only come from an escape, so that most lines need no second look.
    if "\\ud" in line or "\\uD" in line:
        check_encodable("the line", json.dumps(value, ensure_ascii=False))
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"not JSON: {name}; allowed: numbers that are finite")


def parse_line(line: str) -> Record:
    """A record from a line of JSON.

    Raises:
        ValueError: not JSON, or not a record; with the reason.
    """
    return parse_record(parse_json(line))


def parse_bytes(line: bytes) -> Record:
    """A record from the bytes of a line.

    Raises:
        ValueError: not UTF-8, not JSON, or not a record; with the reason.
    """
    return decode_record(line) or parse_line(decode_text(line))


def iter_objects(path: Path, on_bytes: OnBytes | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, object) of a file with one JSON object a line, of whatever format.

    Raises:
        TraceError: at the first line that is not a JSON object.
    """
    for number, line in iter_lines(path, on_bytes):
        try:
            value = parse_json(line)
        except ValueError as error:
            raise TraceError(path, number, str(error)) from None
        if not isinstance(value, dict):
            raise TraceError(path, number, f"the line is {line.strip()[:60]}; allowed: a JSON object")
        yield number, value


def iter_records(path: Path, on_bytes: OnBytes | None = None) -> Iterator[tuple[int, Record]]:
    """Yields (line number from 1, record).

    Args:
        path: a trace; .gz and .zst are unpacked.
        on_bytes: called with the number of bytes of the file that were read.

    Raises:
        OSError: the file cannot be read.
        TraceError: at the first line that is not a record; or the file holds none.
    """
    is_empty = True
    for number, record in _parsed(path, parse_bytes, on_bytes):
        is_empty = False
        yield number, record
    if is_empty:
        raise TraceError(path, 0, "the file holds no record")


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Writes a trace, packed where its name ends in .gz or .zst.

    Returns:
        The number of records.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    count = 0
    with open_output(path) as file:
        for record in records:
            file.write(format_record(record))
            count += 1
    return count


def format_record(record: Record) -> str:
    """The line of a record, its line end included."""
    return json.dumps(record.to_json(), ensure_ascii=False, separators=(",", ":")) + "\n"
