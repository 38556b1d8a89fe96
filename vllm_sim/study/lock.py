"""One writer at a time for a file of rows, by a lock that ends with its process and leaves nothing behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Holds the lock of a file, which is made if it is not there; it may be replaced meanwhile by renaming another.

    Raises:
        ValueError: another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{path} is being written by another run; allowed: one at a time") from None
            # Whoever held the lock may have put another file into its place since this one was opened.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield
                return
