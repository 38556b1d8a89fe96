"""The file of a recording: whole lines at the end of it, whatever happens.

A record is one write of one whole line to a file that is opened for appending, so that a killed recorder loses at most
the record that it was writing. What such a kill can leave is a last line without its end. It is cut off when the next
recorder opens the file, and a warning says so: it is half of a record that is lost in any case, and whoever restarts a
recorder can do nothing better with it. Any other line that is no record is refused: then the file is not a recording,
and nothing in it may be touched.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vllm_sim.trace.files import decode_text, format_record, iter_raw_lines, parse_line
from vllm_sim.trace.record import Record, TraceError

logger = logging.getLogger(__name__)


class Journal:
    """A trace that grows. One recorder at a time has it open."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it, readable by its owner only: it holds what people wrote.

        Raises:
            ValueError: the name says that the file is packed, which cannot be appended to line by line.
            OSError: the file cannot be opened, or another recorder has it.
        """
        if path.suffix in (".gz", ".zst"):
            raise ValueError(f"--out is {path}; allowed: a file that is not packed (pack it when it is whole)")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._handle)
            raise OSError(f"{path}: another recorder writes to this file") from None

    def close(self) -> None:
        os.close(self._handle)

    def read(self) -> Iterator[Record]:
        """Yields the records that are there already and mends the last line; to be read to its end before appending.

        Raises:
            TraceError: a line is not a record; the file is left as it is.
        """
        for number, line in iter_raw_lines(self.path):
            whole = line.endswith(b"\n")
            try:
                record = parse_line(decode_text(line))
            except ValueError as error:
                if whole or not line.startswith(b"{"):
                    raise TraceError(self.path, number, f"{error}; only a recording can be appended to") from None
                os.ftruncate(self._handle, os.fstat(self._handle).st_size - len(line))
                logger.warning("%s, line %d: half a record (%d bytes) cut off", self.path, number, len(line))
                return
            if not whole:
                self._write(b"\n")
            yield record

    def append(self, record: Record) -> None:
        """Writes a record.

        Raises:
            ValueError: a text in it holds half a character, which cannot be written; nothing was.
            OSError: it cannot be written whole; nothing is left of it.
        """
        self._write(format_record(record).encode())

    def _write(self, line: bytes) -> None:
        size = os.fstat(self._handle).st_size
        written = 0
        try:
            written = os.write(self._handle, line)
        finally:
            if written < len(line):
                os.ftruncate(self._handle, size)
        if written < len(line):
            raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written")
