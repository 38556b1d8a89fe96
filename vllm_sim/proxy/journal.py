"""The file of a recording: it can be read at any moment, whatever happens.

Linux may stop the write of a long line half-way when the process is killed. So a line is first written with UNFINISHED
in place of its opening brace, which says to every reader here that there is no record yet; when all of it is in the
file, one byte more makes it a record. A killed recorder loses at most the record that it was writing. The next recorder
cuts an unfinished line off, with a warning; and likewise a last line that was cut by something else, a full disk or a
power failure: it is half of a record that is lost in any case. Any other line that is no record is refused: then the
file is not a recording, and nothing in it may be touched.

The lock is on the recording itself, which leaves no file next to it; filelock, which sweeps use, locks one of its own.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vllm_sim.trace.files import UNFINISHED, format_record, is_unfinished, iter_raw_lines, parse_bytes
from vllm_sim.trace.output import name_errors
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
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
                record = parse_bytes(line)
            except ValueError as error:
                start = self._size() - len(line)
                is_last = os.pread(self._handle, len(line), start) == line
                if not is_last or not (is_unfinished(line) or (line.startswith(b"{") and not whole)):
                    raise TraceError(self.path, number, f"{error}; only a recording can be appended to") from None
                os.ftruncate(self._handle, start)
                logger.warning("%s, line %d: half a record (%d bytes) cut off", self.path, number, len(line))
                return
            if not whole:
                os.pwrite(self._handle, b"\n", self._size())
            yield record

    def append(self, record: Record) -> None:
        """Writes a record.

        Raises:
            ValueError: a text in it holds half a character, which cannot be written; nothing was.
            OSError: it cannot be written whole; nothing is left of it.
        """
        line = format_record(record).encode()
        start = self._size()
        try:
            with name_errors(self.path):
                written = os.pwrite(self._handle, UNFINISHED + line[1:], start)
                if written < len(line):
                    raise OSError(f"{self.path}: only {written} of {len(line)} bytes could be written")
                os.pwrite(self._handle, line[:1], start)
        except BaseException:
            os.ftruncate(self._handle, start)
            raise

    def _size(self) -> int:
        return os.fstat(self._handle).st_size
