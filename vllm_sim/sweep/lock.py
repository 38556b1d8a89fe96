"""One writer at a time for a file or folder of rows, by a lock that ends with its process and leaves nothing behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Holds the lock of a folder, or of a file, which is made if it is not there.

    Who replaces files while he works locks their folder: the lock does not go over to a new file.

    Raises:
        ValueError: another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_dir():
            path.touch()
        handle = os.open(path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"{path} is being written by another run; allowed: one at a time") from None
            # Whoever held the lock may have put another file into its place since this one was opened.
            if path.exists() and os.path.samestat(os.fstat(handle), path.stat()):
                yield
                return
        finally:
            os.close(handle)
