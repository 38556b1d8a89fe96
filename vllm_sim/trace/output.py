"""Writing a file: under a temporary name next to its place, renamed when it is whole.

A killed writer leaves its temporary file; the next one that writes the same file removes it. A writer holds a
lock on its own, which an abandoned one has not.
"""

import errno
import fcntl
import gzip
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import zstandard

_TEMPORARY = ".partial"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def name_errors(path: Path) -> Iterator[None]:
    """Names the file in an error of the system that names none, as of a disk that is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in _NO_ROOM:
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def open_output(path: Path) -> Iterator[IO[str]]:
    """Opens a text file for writing (UTF-8, packed by its suffix); it appears under its name only when it is whole.

    A gzip file carries no time of its making: the same text gives the same bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, temporary = _make_temporary(path)
    try:
        with name_errors(path), os.fdopen(handle, "wb") as raw:
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


def _make_temporary(path: Path) -> tuple[int, Path]:
    """A locked file next to another: (its handle, its path)."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_TEMPORARY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:  # else it was taken for abandoned before it was locked
            return handle, Path(name)
        os.close(handle)


def _remove_abandoned(path: Path) -> None:
    """Removes what writers of this file left when they were killed: what none of them has locked."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\w{{8}}{re.escape(_TEMPORARY)}")
    for other in path.parent.iterdir():
        if not pattern.fullmatch(other.name):
            continue
        with suppress(OSError), other.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other.unlink()
