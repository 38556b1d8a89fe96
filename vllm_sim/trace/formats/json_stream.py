"""Reads the elements of a big JSON array, or of objects one after the other, as a stream.

Held in memory: one element and CHUNK_CHARACTERS. A file that ends in the middle of an element gives all the elements
before it; the caller gets what was cut off.

Why not ijson (3.6.0 with yajl was tried): it names no line of an error; it puts `?` in place of half a character, which
a converter has to see to drop the turn; it refuses integers of more than 64 bits when it is to give floats; and its
memory grows with the square of a file's nesting. On a dump of 151 MB both read 160 to 280 MB/s on a busy machine, ijson
with 11 MiB less memory.
"""

import codecs
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from vllm_sim.trace.files import READ_ERRORS, OnBytes, open_bytes, read_error
from vllm_sim.trace.record import TraceError

CHUNK_CHARACTERS = 1 << 20
MAX_ELEMENT_CHARACTERS = 1 << 28
# The longest a literal, a number or an escape can be of which only a part is in the buffer.
_UNFINISHED_TAIL = 64
_BEHIND = frozenset(" \t\r\n,]")
_BETWEEN = re.compile(r"[\s,]*")


def iter_elements(path: Path, on_cut: Callable[[str], None], on_bytes: OnBytes | None = None) -> Iterator[Any]:
    """Yields the elements of the array that a file holds, or its values one after the other if it holds no array.

    Args:
        path: The file; .gz and .zst are unpacked.
        on_cut: Called with a description if the file ends in the middle of an element or before the array's end.
        on_bytes: Called now and then with the number of bytes of the file, as it lies on the disk, that were read.

    Raises:
        TraceError: the file cannot be read, is not UTF-8, or is broken elsewhere than at its end; with the line.
    """
    buffer = _Buffer(path)
    try:
        with open_bytes(path) as (file, raw):
            buffer.file = file
            yield from _elements(buffer, on_cut, on_bytes, raw)
    except READ_ERRORS as error:
        raise read_error(path, buffer.line() if buffer.text else 0, error) from None


def _elements(
    buffer: "_Buffer", on_cut: Callable[[str], None], on_bytes: OnBytes | None, raw: BinaryIO
) -> Iterator[Any]:
    is_array = buffer.skip_between() == "["
    if is_array:
        buffer.place += 1
    while (begin := buffer.skip_between()) != "":
        if is_array and begin == "]":
            buffer.place += 1
            if buffer.skip_between():
                raise TraceError(buffer.path, buffer.line(), "text after the end of the array; allowed: nothing")
            return
        decoded, value = buffer.decode()
        if not decoded:
            on_cut(f"line {buffer.line()}, {len(buffer.text) - buffer.place} characters")
            return
        yield value
        if on_bytes is not None:
            on_bytes(raw.tell())
    if is_array:
        on_cut(f"line {buffer.line()}, no end of the array")


class _Buffer:
    """A window over the file's text; `place` is the next character to be read."""

    def __init__(self, path: Path):
        self.path = path
        self.file: BinaryIO | None = None
        self.text = ""
        self.place = 0
        self._lines_before = 1
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._decoder = json.JSONDecoder()

    def line(self) -> int:
        return self._lines_before + self.text.count("\n", 0, self.place)

    def fill(self, size: int) -> bool:
        """Reads more text, letting go of what was read; False at the end. Half a character at the end is left out."""
        assert self.file is not None
        more = self.file.read(size)
        try:
            text = self._utf8.decode(more)
        except UnicodeDecodeError as error:
            line = self._lines_before + self.text.count("\n")
            raise TraceError(self.path, line, f"not UTF-8 here or soon after: {error.reason}") from None
        self._lines_before += self.text.count("\n", 0, self.place)
        self.text = self.text[self.place :] + text
        self.place = 0
        return bool(more)

    def skip_between(self) -> str:
        """Passes over blanks and commas; returns the next character, "" at the end of the file."""
        while True:
            match = _BETWEEN.match(self.text, self.place)
            assert match is not None
            self.place = match.end()
            if self.place < len(self.text):
                return self.text[self.place]
            if not self.fill(CHUNK_CHARACTERS):
                return ""

    def decode(self) -> tuple[bool, Any]:
        """The value at `place`, which moves after it; (False, None) if the file ends within it."""
        size = CHUNK_CHARACTERS
        while True:
            try:
                value, end = self._decoder.raw_decode(self.text, self.place)
            except json.JSONDecodeError as error:
                self._check_unfinished(error)
            except RecursionError:
                raise TraceError(self.path, self.line(), "nested too deeply") from None
            else:
                # A number may go on after the buffer's end: "-0" of "-0.5".
                if (
                    not isinstance(value, int | float)
                    or end < len(self.text) - _UNFINISHED_TAIL
                    or (self.text[end : end + 1] in _BEHIND)
                ):
                    self.place = end
                    return True, value
            if len(self.text) - self.place > MAX_ELEMENT_CHARACTERS:
                raise TraceError(
                    self.path, self.line(), f"an element is longer than {MAX_ELEMENT_CHARACTERS} characters"
                )
            # Twice as much each time: a long element is decoded a few times only.
            if not self.fill(size):
                return False, None
            size *= 2

    def _check_unfinished(self, error: json.JSONDecodeError) -> None:
        """Raises unless the error is what the end of the buffer causes."""
        unfinished = error.msg.startswith("Unterminated string") or error.pos > len(self.text) - _UNFINISHED_TAIL
        if not unfinished:
            line = self._lines_before + self.text.count("\n", 0, error.pos)
            raise TraceError(self.path, line, f"not JSON: {error.msg}") from None
